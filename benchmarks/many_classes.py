"""Time and memory of the whole way with thousands of classes: prepare, train (one step), evaluate, report.

    python benchmarks/many_classes.py [--classes 10000] [--images 4] [--side 16]

Pictures are a few pixels large, so that what is measured is the number of classes. Each command is a process of its
own. Memory is the highest PSS of its processes together, as in `memory.py`. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from memory import memory
from PIL import Image

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.processes import family

_EVERY = 0.1
"""Seconds from one look to the next."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time and memory with thousands of classes."""

    classes: Annotated[int, Ge(2)] = 10_000
    """Number of classes."""
    images: Annotated[int, Ge(4)] = 4
    """Images of each class: half for train, a quarter each for val and test."""
    side: Annotated[int, Ge(8)] = 16
    """Height and width of the pictures in pixels."""

    def __post_init__(self) -> None:
        check_limits(self)


def draw(folder: Path, settings: Settings) -> None:
    """Class folders with pictures of noise."""
    rng = np.random.default_rng(0)
    for label in range(settings.classes):
        of_class = folder / f"class_{label:05d}"
        of_class.mkdir(parents=True)
        for number in range(settings.images):
            pixels = rng.integers(0, 256, (settings.side, settings.side, 3), np.uint8)
            Image.fromarray(pixels).save(of_class / f"{number}.bmp")


def commands(folder: Path, settings: Settings) -> dict[str, list[str]]:
    """The commands in their order, by name, with their arguments."""
    shards, run = str(folder / "shards"), str(folder / "run")
    model = ["--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--device", "cpu"]
    one_step = ["--epochs", "1", "--batch-size", str(settings.classes * settings.images // 2), "--accumulate", "10"]
    into_shards = ["--out", shards, "--size", str(settings.side), "--fractions", "0.5", "0.25", "0.25"]
    return {
        "prepare": ["--source", f"folder:{folder / 'source'}", *into_shards],
        "train": ["--shards", shards, "--run", run, *model, *one_step],
        "evaluate": ["--run", run, "--device", "cpu"],
        "report": ["--run", run],
    }


def watched(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and the highest PSS in bytes of a command.

    Raises:
        UserError: it failed.
    """
    begun, highest = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        highest = max(highest, memory([member.pid for member in family(process.pid)])[0])
        time.sleep(_EVERY)
    if process.returncode:
        raise UserError(f"{command[2]} ended with {process.returncode}; what it said stands above")
    return time.perf_counter() - begun, highest


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/many_classes", argv)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "source", settings)
        print(f"{settings.classes:,} classes, {settings.classes * settings.images:,} images of {settings.side} px")
        for name, arguments in commands(Path(folder), settings).items():
            seconds, peak = watched([sys.executable, "-m", f"food101_fast.{name}", *arguments])
            print(f"{name:<10} {seconds:>8.1f} s {peak / 1e6:>8,.0f} MB", flush=True)


if __name__ == "__main__":
    exit_with(main)
