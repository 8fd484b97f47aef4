"""Images per second of `prepare` and of a process pool that does the same with Pillow, interleaved in one run.

    python benchmarks/prepare.py --source PHOTOS [--files 12000] [--size 192] [--json FILE]

PHOTOS is a folder with one folder of JPEGs per class. Its files are repeated until there are enough; a copy is made
different from its original by bytes after the end of the image, which no decoder looks at, so that it is no duplicate.

What is compared, each from the call to the last byte on the disk, with as many processes:

- `prepare`: our job, with everything it does beside decoding: finding duplicates, checking, hashing, drawing.
- `pillow`: decode, convert, crop, resize, and write the same samples with webdataset's TarWriter.
- `pillow, draft`: the same with Pillow's own way to decode at a reduced size.
- `decode`: simplejpeg at the same reduced size and the same resize, nothing written. The ceiling.

The same processes' start is in all of them; importing scikit-learn and matplotlib, once per command, is in none.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import orjson
import simplejpeg
from photographs import repeat_files
from PIL import Image

from food101_fast.cli import exit_with, parse
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards.folder import write_atomically

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


def _box(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def pillow_shard(files: Sequence[tuple[str, int]], size: int, out: str, draft: bool) -> int:
    """Decode with Pillow and write a tar of the samples."""
    import webdataset

    with webdataset.TarWriter(out, user="", group="", mtime=0, encoder=False) as tar:
        for path, label in files:
            with Image.open(path) as image:
                if draft:
                    image.draft("RGB", (size, size))
                picture = image.convert("RGB")
            picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=_box(*picture.size))
            stream = BytesIO()
            np.save(stream, np.asarray(picture))
            tar.write({"__key__": f"{label}/{Path(path).stem}", "cls": str(label).encode(), "npy": stream.getvalue()})
    return len(files)


def decode_shard(files: Sequence[tuple[str, int]], size: int) -> int:
    """Decode with simplejpeg and resize; nothing is kept."""
    for path, _ in files:
        data = Path(path).read_bytes()
        picture = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size, strict=True))
        picture.resize((size, size), Image.Resampling.BILINEAR, box=_box(*picture.size))
    return len(files)


def in_pool(workers: int, function: Callable[..., int], tasks: Sequence[tuple[object, ...]]) -> int:
    """Images done by all tasks."""
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        return sum(pool.map(function, *zip(*tasks, strict=True)))


def contestants(settings: Settings, folder: Path) -> dict[str, Callable[[], int]]:
    """What is timed, by name; each returns the number of images it has done."""
    files = repeat_files(settings.source, folder / "photos", settings.files)
    order = np.random.default_rng(0).permutation(len(files))
    chunks = [[files[i] for i in part] for part in np.array_split(order, -(-len(files) // _PER_SHARD))]
    out = folder / "out"

    def ours() -> int:
        job = PrepareSettings(
            source=f"folder:{folder / 'photos'}", out=out, size=settings.size, workers=settings.workers
        )
        return prepare(job).read

    def pillow(draft: bool) -> int:
        out.mkdir()
        tasks = [(chunk, settings.size, str(out / f"{i:06d}.tar"), draft) for i, chunk in enumerate(chunks)]
        return in_pool(settings.workers, pillow_shard, tasks)

    return {
        "prepare": ours,
        "pillow": lambda: pillow(False),
        "pillow, draft": lambda: pillow(True),
        "decode": lambda: in_pool(settings.workers, decode_shard, [(chunk, settings.size) for chunk in chunks]),
    }


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "prepare", argv)
    with tempfile.TemporaryDirectory() as temporary:
        runs = contestants(settings, Path(temporary))
        rates: dict[str, list[float]] = {name: [] for name in runs}
        images = None
        for repetition in range(settings.repetitions + 1):
            for name, run in runs.items():
                shutil.rmtree(Path(temporary) / "out", ignore_errors=True)
                os.sync()
                start = time.perf_counter()
                done = run()
                os.sync()
                seconds = time.perf_counter() - start
                images = images or done
                if done != images:
                    raise RuntimeError(f"{name} did {done} images and not {images}")
                if repetition:
                    rates[name].append(done / seconds)
    medians = {name: statistics.median(of_one) for name, of_one in rates.items()}
    for name, of_one in rates.items():
        print(f"{name:<16}{medians[name]:>10,.0f} images/s  ({min(of_one):,.0f} to {max(of_one):,.0f})")
    for name in ("pillow", "pillow, draft", "decode"):
        print(f"prepare / {name}: {medians['prepare'] / medians[name]:.2f}")
    if settings.json is not None:
        import torch

        from food101_fast.train.device import machine  # here, since the workers do without torch
        from food101_fast.train.run import versions

        result = {
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "settings": {name: value for name, value in vars(settings).items() if name not in ("json", "source")},
            "images": images,
            "images_per_second": medians,
            "repetitions": rates,
        }
        write_atomically(settings.json, orjson.dumps(result, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    exit_with(main)
