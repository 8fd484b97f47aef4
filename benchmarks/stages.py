"""Every stage of a training step as a row, and what bounds the step: `python -m food101_fast.bench` for gpu.sh.

python benchmarks/stages.py --shards DIR [--device cuda] [--rows FILE] [--json FILE]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from published import Measurement

from food101_fast.bench.doctor import diagnose
from food101_fast.bench.results import to_document
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import run_bench
from food101_fast.cli import exit_with, parse


@dataclass(frozen=True, kw_only=True)
class Settings(BenchSettings):
    """Each stage of a training step, alone and all together."""

    rows: Path | None = None
    """File to append each row to."""
    part: str = "bench"
    """Name of the part of gpu.sh that the rows belong to."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/stages", argv)
    recipe = settings.chosen()
    chosen = {name: getattr(recipe, name) for name in ("model", "image_size", "batch_size")}
    chosen |= {"budget": settings.budget, "device": settings.device}
    measurement = Measurement(settings.json, settings.device, rows=settings.rows, part=settings.part, settings=chosen)
    result = run_bench(settings)
    for name, stage in result.findings.stages.items():
        measurement.rows.rates(name, stage.repetitions, share_of_ceiling=stage.share_of_ceiling)
        print(f"{name:<28}{statistics.median(stage.repetitions):>12,.0f} images/s", flush=True)
    verdict = diagnose(result.findings, result.provenance.machine)
    document = to_document(result)
    gain = document["free"]["loading"]
    measurement.rows.value("step from shards over fixed batch", 1 / gain, "", verdict=verdict)
    print(verdict.sentence)
    measurement.publish(
        chosen, **{name: document[name] for name in ("stages", "ceilings", "free", "loading", "timing")}
    )


if __name__ == "__main__":
    exit_with(main)
