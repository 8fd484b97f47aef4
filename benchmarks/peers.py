"""Everything of ours that others do too, against all of them that a user could pick, in one run on the same pictures.

    make bench-peers PHOTOS=DIR        or        python benchmarks/peers.py --photos DIR [--json FILE]

Five parts, each with its contestants in turns: loading (here), preparing (prepare.py), augmentation (transforms.py),
training steps (steps.py) and whole pipelines (pipelines.py). The last four can also be run by themselves.

Loading: photographs, repeated until there are enough, are prepared as raw and as JPEG shards of 192 px; each peer
writes its own format from those. Every peer is a script with an environment of its own, in which torch is that of this
one. A turn is a warm-up and some repetitions that are timed: shuffled batches of uint8 images with labels, in the page
cache, with two threads or worker processes. The medians and ranges over all turns are printed.

FFCV is compiled when it is installed, which needs Debian's libopencv-dev, libturbojpeg0-dev and pkg-config; SPDL needs
FFmpeg's libraries (libavdevice59, libavfilter8). A peer that can't be installed is listed with the reason.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from environments import ENVIRONMENTS, HERE, environment, reported
from photographs import repeat_files
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError

PEERS = (
    "ours",
    "ours_threads",
    "ffcv",
    "dali",
    "webdataset",
    "webdataset_samples",
    "mosaicml",
    "litdata",
    "spdl",
    "huggingface",
    "imagefolder",
    "notebook",
)
ENCODINGS = ("raw", "jpeg")
PARTS = ("loading", "preparing", "augmentation", "steps", "pipelines")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Loading, preparing, augmentation, training steps and whole pipelines: ours against all others."""

    photos: Path
    """Class folders with photographs."""
    files: int = 12000
    """Photographs to load; those that there are are repeated. Half of them are prepared."""
    work: Path = ENVIRONMENTS / "work"
    """Folder for shards and for the peers' own formats; kept for the next run."""
    envs: Path | None = ENVIRONMENTS
    """Folder for the peers' environments; kept for the next run. None: what is installed beside this project."""
    parts: tuple[str, ...] = PARTS
    """Which parts."""
    only: tuple[str, ...] = PEERS
    """Which peers of loading."""
    json: Path | None = None
    """File to write the results to."""
    workers: int = 2
    """Threads or worker processes of each peer."""
    batch_size: int = 256
    """Images per batch, in loading."""
    repetitions: int = 2
    """Timed repetitions in each turn of loading, after one that is not counted; a second each at the least."""
    rounds: int = 3
    """Turns of each peer in loading; the other parts have repetitions of their own, five or more."""


def photographs(settings: Settings) -> Path:
    """Class folders with enough photographs, made if they are not there."""
    folder = settings.work / "photographs"
    complete = settings.work / f"photographs-{settings.files}"
    if not complete.exists():
        repeat_files(settings.photos, folder, settings.files)
        complete.touch()
    return folder


def shards(encoding: str, photos: Path, settings: Settings) -> Path:
    """Shards of the photographs, prepared if they are not there."""
    folder = settings.work / "shards" / encoding
    command = f"-m food101_fast.prepare --size 192 --encoding {encoding} --fractions 0.8 0.1 0.1"
    subprocess.run(
        [sys.executable, *command.split(), "--source", f"folder:{photos}", "--out", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


def memcpy(settings: Settings, seconds: float = 2.0) -> float:
    """Rows of 192 px copied in random order from one array into batch buffers that take turns, in one thread."""
    rng = np.random.default_rng(0)
    source = np.ones((8 * settings.batch_size, 192 * 192 * 3), np.uint8)
    buffers = [np.ones((settings.batch_size, source.shape[1]), np.uint8) for _ in range(6)]
    images, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        buffer = buffers[images // settings.batch_size % len(buffers)]
        for index, row in enumerate(rng.integers(0, len(source), settings.batch_size).tolist()):
            buffer[index] = source[row]
        images += settings.batch_size
    return images / (time.perf_counter() - begun)


def loading(settings: Settings) -> dict[str, Any]:
    """All turns of all loaders: for each encoding and peer its reports joined, or why there are none."""
    photos = photographs(settings)
    data = {encoding: shards(encoding, photos, settings) for encoding in ENCODINGS}
    options = {
        "photos": photos,
        "work": settings.work,
        "workers": settings.workers,
        "batch_size": settings.batch_size,
        "repetitions": settings.repetitions,
    }
    results: dict[str, dict[str, dict[str, Any]]] = {encoding: {} for encoding in ENCODINGS}
    ceiling = []
    for _ in range(settings.rounds):
        ceiling.append(memcpy(settings))
        for encoding in ENCODINGS:
            for peer in settings.only:
                so_far = results[encoding].get(peer, {})
                if "error" in so_far:
                    continue
                script = HERE / f"peer_{peer}.py"
                asked = {"encoding": encoding, "data": data[encoding], **options}
                try:
                    report = reported(script, environment(script, settings.envs), asked)
                except UserError as error:
                    report = {"error": str(error)}
                else:
                    for measured in ("images_per_second", "busy_cores"):
                        report[measured] = so_far.get(measured, []) + report[measured]
                results[encoding][peer] = {"name": peer, **report}
                print(f"{encoding:<5} {peer:<18} {summary(results[encoding][peer])}", file=sys.stderr, flush=True)
    asked_for = {name: getattr(settings, name) for name in ("files", "workers", "batch_size", "repetitions", "rounds")}
    return {"settings": asked_for, "stored_size": 192, "memcpy_images_per_second": ceiling, **results}


def other_part(part: str, settings: Settings) -> dict[str, Any]:
    """What another script of this folder measures, run as a user would; its own table goes to the terminal.

    Raises:
        UserError: it fails.
    """
    photos, envs, workers = str(settings.photos), str(settings.envs), str(settings.workers)
    half = str(settings.files // 2)
    flags = {
        "preparing": ["prepare", "--source", photos, "--files", half, "--workers", workers, "--envs", envs],
        "augmentation": ["transforms", "--envs", envs],
        "steps": ["steps", "--models", "mobilenet_v2:160", "resnet50:160", "--batch-sizes", "32"],
        "pipelines": ["pipelines", "--source", photos, "--workers", workers],
    }
    script, *rest = flags[part]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, str(HERE.parent / f"{script}.py"), *rest, "--json", str(path)]
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"benchmarks/{script}.py failed; what it said stands above")
        result: dict[str, Any] = orjson.loads(path.read_bytes())
    return result


def summary(report: dict[str, Any]) -> str:
    """Median and range of a report, or what went wrong."""
    if "error" in report:
        return str(report["error"])
    rates = report["images_per_second"]
    cores = statistics.median(report["busy_cores"])
    return f"{statistics.median(rates):>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}{cores:>7.2f}"


def table(results: dict[str, Any]) -> str:
    """Loading for the terminal."""
    ceiling = statistics.median(results["memcpy_images_per_second"])
    lines = [f"memcpy of rows in one thread: {ceiling:,.0f} images/s"]
    for encoding in ENCODINGS:
        reports = results[encoding]
        rates = reports.get("ours", {}).get("images_per_second")
        ours = statistics.median(rates) if rates else None
        lines.append(f"\n{encoding:<32}{'images/s':>10}{'lowest':>10}{'highest':>10}{'cores':>7}{'ours is':>10}")
        for report in reports.values():
            name = f"{report['name']} {report.get('version', '')}"
            factor = ""
            if ours is not None and "error" not in report:
                factor = f"{ours / statistics.median(report['images_per_second']):>9.1f}x"
            lines.append(f"{name:<32}{summary(report)}{factor}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/peers", argv)
    for flag, given, there in (("--only", settings.only, PEERS), ("--parts", settings.parts, PARTS)):
        if unknown := set(given) - set(there):
            raise UserError(f"{flag} {' '.join(sorted(unknown))}: there are {', '.join(there)}")
    if not settings.photos.is_dir():
        raise UserError(f"there is no folder {settings.photos}; give class folders with photographs to --photos")
    measurement = Measurement(settings.json)
    parts: dict[str, Any] = {}
    for part in settings.parts:
        print(f"\n== {part}", flush=True)
        if part == "loading":
            parts[part] = loading(settings)
            print(table(parts[part]))
        else:
            parts[part] = other_part(part, settings)
    measurement.publish({"parts": settings.parts}, **parts)


if __name__ == "__main__":
    exit_with(main)
