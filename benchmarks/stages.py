"""`python -m food101_fast.bench` as a part of gpu.sh: every stage of a step as a row, and what bounds it.

python benchmarks/stages.py --shards DIR [--device cuda] [--rows FILE] [--json FILE]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from published import Measurement

from food101_fast.bench.doctor import diagnose
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import run_bench
from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each stage of a training step, alone and all together."""

    shards: str
    """Folder of shards."""
    device: Device = "auto"
    """Where to compute."""
    model: str = "mobilenet_v2"
    """torchvision model, with random weights."""
    image_size: int = 160
    """Height and width that it sees, in pixels."""
    batch_size: int = 128
    """Images in one step."""
    budget: float = 40
    """Seconds that all of it may take."""
    rows: Path | None = None
    """File to append each row to."""
    json: Path | None = None
    """File to write the results to."""
    part: str = "bench"
    """What the rows are marked with."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/stages", argv)
    chosen = {name: getattr(settings, name) for name in ("model", "image_size", "batch_size", "budget", "device")}
    measurement = Measurement(settings.json, settings.device, rows=settings.rows, part=settings.part, settings=chosen)
    result = run_bench(BenchSettings(shards=settings.shards, **chosen))
    for name, stage in result["stages"].items():
        measurement.rows.rates(name, stage["repetitions"], share_of_ceiling=stage.get("share_of_ceiling"))
        print(f"{name:<28}{statistics.median(stage['repetitions']):>12,.0f} images/s", flush=True)
    verdict = diagnose(result)
    measurement.rows.value("step from shards over fixed batch", 1 / result["free"]["loading"], "", verdict=verdict)
    print(verdict["sentence"])
    measurement.publish(chosen, **{name: result[name] for name in ("stages", "ceilings", "free", "loading", "timing")})


if __name__ == "__main__":
    exit_with(main)
