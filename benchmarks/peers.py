"""Images per second of our loader and of every other that a user could pick, in one run on the same pictures.

    make bench-peers PHOTOS=DIR        or        python benchmarks/peers.py --photos DIR [--json FILE]

Photographs, repeated until there are enough, are prepared as raw and as JPEG shards of 192 px; each peer writes its own
format from those. Every peer is a script with an environment of its own, in which torch is that of this one. They take
turns, and each turn is a warm-up and some repetitions that are timed: shuffled batches of uint8 images with labels, in
the page cache, with two threads or worker processes. The medians and ranges over all turns are printed.

FFCV is compiled when it is installed, which needs Debian's libopencv-dev, libturbojpeg0-dev and pkg-config; SPDL needs
FFmpeg's libraries (libavdevice59, libavfilter8). A peer that can't be installed is listed with the reason.
"""

from __future__ import annotations

import json
import os
import re
import site
import statistics
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from photographs import repeat_files

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards.folder import write_atomically
from food101_fast.train.device import machine
from food101_fast.train.run import versions

HERE = Path(__file__).parent / "peers"
PEERS = (
    *(
        "ours",
        "ours_threads",
        "ffcv",
        "webdataset",
        "webdataset_samples",
        "mosaicml",
        "litdata",
        "spdl",
        "huggingface",
        "imagefolder",
    ),
    "notebook",
)
ENCODINGS = ("raw", "jpeg")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of our loader and of all others."""

    photos: Path
    """Class folders with photographs."""
    files: int = 12000
    """Photographs to prepare; those that there are are repeated."""
    work: Path = HERE / ".envs" / "work"
    """Folder for shards and for the peers' own formats; kept for the next run."""
    envs: Path = HERE / ".envs"
    """Folder for the peers' environments; kept for the next run."""
    only: tuple[str, ...] = PEERS
    """Which peers."""
    json: Path | None = None
    """File to write the results to."""
    workers: int = 2
    """Threads or worker processes of each peer."""
    batch_size: int = 256
    """Images per batch."""
    repetitions: int = 2
    """Timed repetitions in each turn, after one that is not counted; a second each at the least."""
    rounds: int = 3
    """Turns of each peer."""


def environment(script: Path, envs: Path) -> Path:
    """The interpreter of a script's environment, which is made if it is not there.

    Raises:
        subprocess.CalledProcessError: something can't be installed.
    """
    block = re.search(r"^# /// script\n(.*?)^# ///$", script.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    described = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    dependencies = described["dependencies"]
    if not dependencies:
        return Path(sys.executable)
    folder = envs / script.stem.removeprefix("peer_")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "base.pth").write_text("\n".join(site.getsitepackages()))  # torch and all the rest
        install = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
        alone = described.get("tool", {}).get("peers", {}).get("without-dependencies", [])
        for packages_of_one in (dependencies, [*alone, "--no-deps"] if alone else []):
            if packages_of_one:
                subprocess.run([*install, *packages_of_one], check=True, capture_output=True, text=True)
        (folder / "complete").touch()
    return python


def script(peer: str) -> Path:
    """The file of a peer."""
    return HERE / f"peer_{peer}.py"


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


def turn(peer: str, encoding: str, python: Path, data: Path, photos: Path, settings: Settings) -> dict[str, Any]:
    """One turn of a peer: what it reports, or `error`."""
    options = {
        "encoding": encoding,
        "data": data,
        "photos": photos,
        "work": settings.work,
        "workers": settings.workers,
        "batch-size": settings.batch_size,
        "repetitions": settings.repetitions,
    }
    command = [str(python), str(script(peer)), *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.run(command, capture_output=True, text=True, env=variables(), check=False)
    if process.returncode:
        return {"error": (process.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    report: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return report


def variables() -> dict[str, str]:
    """Environment variables of a script that runs in an environment of its own: it imports this project."""
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "PYTHONWARNINGS": "ignore"}


def memcpy(settings: Settings, seconds: float = 2.0) -> float:
    """Rows of 192 px copied in random order from one array into batch buffers that take turns, in one thread."""
    rng = np.random.default_rng(0)
    source = np.ones((8 * settings.batch_size, 192 * 192 * 3), np.uint8)
    buffers = [np.ones((settings.batch_size, source.shape[1]), np.uint8) for _ in range(6)]
    images, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        buffer = buffers[images // settings.batch_size % len(buffers)]
        for place, row in enumerate(rng.integers(0, len(source), settings.batch_size).tolist()):
            buffer[place] = source[row]
        images += settings.batch_size
    return images / (time.perf_counter() - begun)


def run(settings: Settings) -> dict[str, Any]:
    """All turns; for each encoding and peer its reports joined, or why there are none."""
    photos = photographs(settings)
    data = {encoding: shards(encoding, photos, settings) for encoding in ENCODINGS}
    pythons: dict[str, Path] = {}
    results: dict[str, dict[str, dict[str, Any]]] = {encoding: {} for encoding in ENCODINGS}
    for peer in settings.only:
        try:
            pythons[peer] = environment(script(peer), settings.envs)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
            for encoding in ENCODINGS:
                results[encoding][peer] = {"name": peer, "error": f"can't be installed: {reason}"}
    ceiling = []
    for _ in range(settings.rounds):
        ceiling.append(memcpy(settings))
        for encoding in ENCODINGS:
            for peer, python in pythons.items():
                so_far = results[encoding].get(peer)
                if so_far is not None and "error" in so_far:
                    continue
                report = turn(peer, encoding, python, data[encoding], photos, settings)
                if so_far is not None and "error" not in report:
                    for measured in ("images_per_second", "busy_cores"):
                        report[measured] = so_far[measured] + report[measured]
                results[encoding][peer] = {"name": peer, **report}
                print(f"{encoding:<5} {peer:<12} {summary(results[encoding][peer])}", file=sys.stderr, flush=True)
    return {"memcpy_images_per_second": ceiling, **results}


def summary(report: dict[str, Any]) -> str:
    """Median and range of a report, or what went wrong."""
    if "error" in report:
        return str(report["error"])
    rates = report["images_per_second"]
    cores = statistics.median(report["busy_cores"])
    return f"{statistics.median(rates):>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}{cores:>7.2f}"


def table(results: dict[str, Any]) -> str:
    """The results for the terminal."""
    ceiling = statistics.median(results["memcpy_images_per_second"])
    lines = [f"memcpy of rows in one thread: {ceiling:,.0f} images/s"]
    for encoding in ENCODINGS:
        reports = results[encoding]
        ours = statistics.median(reports["ours"]["images_per_second"]) if "ours" in reports else None
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
    if unknown := set(settings.only) - set(PEERS):
        raise UserError(f"--only {' '.join(sorted(unknown))}: there are {', '.join(PEERS)}")
    if not settings.photos.is_dir():
        raise UserError(f"there is no folder {settings.photos}; give class folders with photographs to --photos")
    results = run(settings)
    print(table(results))
    if settings.json is not None:
        document = {
            "version": 1,
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "settings": {name: getattr(settings, name) for name in ("workers", "batch_size", "repetitions", "rounds")},
            "stored_size": 192,
            **results,
        }
        write_atomically(settings.json, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    exit_with(main)
