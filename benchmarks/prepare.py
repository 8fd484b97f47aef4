"""Images per second of `prepare` and of a process pool that does the same with Pillow, interleaved in one run.

    python benchmarks/prepare.py --source PHOTOS [--files 12000] [--size 192] [--json FILE]

PHOTOS is a folder with one folder of JPEGs per class. Its files are repeated until there are enough; a copy is made
different from its original by bytes after the end of the image, which no decoder looks at, so that it is no duplicate.

What is compared, each from the call to the last byte on the disk, with as many processes:

- `prepare`: our job, with everything it does beside decoding: finding duplicates, checking, hashing, drawing.
- `pillow`: decode, convert, crop, resize, and write the same samples with webdataset's TarWriter.
- `pillow, draft`: the same with Pillow's own way to decode at a reduced size.
- `decode`: simplejpeg at the same reduced size and the same resize, nothing written. The ceiling.
- FFCV's writer, LitData's optimize and the map of datasets, each in an environment of its own: Pillow's reduced
  decoding and the same resize, written in their own formats.

The start of the processes is in all of them; importing packages, once per command, is in none.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from environments import ENVIRONMENTS, HERE, environment, reported
from photographs import centre_square, repeat_files, square
from PIL import Image

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare

PEERS = ("ffcv", "litdata", "huggingface")

_PER_SHARD = 500


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of prepare and of a pool of Pillow processes."""

    source: Path
    """Folder with a folder of JPEGs for each class."""
    json: Path | None = None
    """File to write the results to."""
    files: int = 12000
    """Files to prepare; the source's are repeated."""
    size: int = 192
    """Stored size in pixels."""
    workers: int = 2
    """Processes of each."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""
    envs: Path | None = ENVIRONMENTS
    """Folder for the peers' environments; kept for the next run. None: what is installed beside this project."""


def pillow_shard(files: Sequence[tuple[str, int]], size: int, out: str, draft: bool) -> int:
    """Decode with Pillow and write a tar of the samples."""
    import webdataset

    with webdataset.TarWriter(out, user="", group="", mtime=0, encoder=False) as tar:
        for path, label in files:
            stream = BytesIO()
            np.save(stream, square(path, size, draft=draft))
            tar.write({"__key__": f"{label}/{Path(path).stem}", "cls": str(label).encode(), "npy": stream.getvalue()})
    return len(files)


def decode_shard(files: Sequence[tuple[str, int]], size: int) -> int:
    """Decode with simplejpeg and resize; nothing is kept."""
    for path, _ in files:
        data = Path(path).read_bytes()
        picture = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size, strict=True))
        picture.resize((size, size), Image.Resampling.BILINEAR, box=centre_square(*picture.size))
    return len(files)


def in_pool(workers: int, function: Callable[..., int], tasks: Sequence[tuple[object, ...]]) -> int:
    """Images done by all tasks."""
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        return sum(pool.map(function, *zip(*tasks, strict=True)))


def timed(run: Callable[[], int]) -> dict[str, Any]:
    """Images and seconds of a job, until its files are on the disk."""
    os.sync()
    begun = time.perf_counter()
    images = run()
    os.sync()
    return {"images": images, "seconds": time.perf_counter() - begun}


def of_peer(peer: str, settings: Settings, photos: Path, out: Path) -> dict[str, Any]:
    """What a script in an environment of its own reports: images and seconds without its imports.

    Raises:
        UserError: it can't be installed, or fails.
    """
    script = HERE / f"prepare_{peer}.py"
    options = {"photos": photos, "out": out, "size": settings.size, "workers": settings.workers}
    return reported(script, environment(script, settings.envs), options)


def contestants(settings: Settings, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is timed, by name."""
    photos, out = folder / "photos", folder / "out"
    files = repeat_files(settings.source, photos, settings.files)
    order = np.random.default_rng(0).permutation(len(files))
    chunks = [[files[i] for i in part] for part in np.array_split(order, -(-len(files) // _PER_SHARD))]

    def ours() -> int:
        job = PrepareSettings(source=f"folder:{photos}", out=out, size=settings.size, workers=settings.workers)
        return prepare(job).read

    def pillow(draft: bool) -> int:
        out.mkdir()
        tasks = [(chunk, settings.size, str(out / f"{i:06d}.tar"), draft) for i, chunk in enumerate(chunks)]
        return in_pool(settings.workers, pillow_shard, tasks)

    def decode() -> int:
        return in_pool(settings.workers, decode_shard, [(chunk, settings.size) for chunk in chunks])

    return {
        "prepare": lambda: timed(ours),
        "pillow": lambda: timed(lambda: pillow(False)),
        "pillow, draft": lambda: timed(lambda: pillow(True)),
        "decode": lambda: timed(decode),
        **{peer: lambda peer=peer: of_peer(peer, settings, photos, out) for peer in PEERS},  # type: ignore[misc]
    }


def compare(settings: Settings) -> dict[str, Any]:
    """Rates of all contestants, which take turns; one that fails is listed with the reason."""
    rates: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    about: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = contestants(settings, folder)
        images = None
        for repetition in range(settings.repetitions + 1):
            for name, run in runs.items():
                if name in reasons:
                    continue
                shutil.rmtree(folder / "out", ignore_errors=True)
                try:
                    done = run()
                except UserError as error:
                    reasons[name] = str(error)
                    continue
                images = images or done["images"]
                if done["images"] != images:
                    raise RuntimeError(f"{name} did {done['images']} images and not {images}")
                about[name] = {key: done[key] for key in ("name", "version", "how", "source") if key in done}
                if repetition:
                    rates.setdefault(name, []).append(done["images"] / done["seconds"])
                print(f"{name:<16}{done['images'] / done['seconds']:>10,.0f} images/s", file=sys.stderr, flush=True)
    return {"images": images, "images_per_second": rates, "not_run": reasons, "about": about}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    from published import Measurement

    from food101_fast.bench.measure import median_of_ratios

    settings = parse(Settings, "benchmarks/prepare", argv)
    if min(settings.files, settings.repetitions) < 1:
        raise UserError("--files and --repetitions should be at least 1")
    measurement = Measurement(settings.json)
    result = compare(settings)
    rates = result["images_per_second"]
    for name, values in rates.items():
        ratio = median_of_ratios(rates["prepare"], values)
        spread = f"({min(values):,.0f} to {max(values):,.0f})"
        print(
            f"{name:<16}{statistics.median(values):>10,.0f} images/s  {spread:<20} prepare is {ratio:.2f} times as fast"
        )
    for name, reason in result["not_run"].items():
        print(f"{name:<16}{reason}")
    kept = {name: getattr(settings, name) for name in ("files", "size", "workers", "repetitions")}
    measurement.publish(kept, **result)


if __name__ == "__main__":
    exit_with(main)
