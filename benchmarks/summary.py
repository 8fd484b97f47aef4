"""The results of gpu.sh in a few lines.

python benchmarks/summary.py --results DIR [--device cuda]
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from food101_fast.bench.measure import median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The results of gpu.sh in a few lines."""

    results: Path
    """Folder with its JSON files."""
    device: str = "cuda"
    """That it was run on."""


def _rate(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _device(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, rates in found["images_per_second"].items():
        yield f"loader: {name}", rates if isinstance(rates, str) else _rate(rates)


def _stages(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    model = found["settings"]["recipe"]["model"]
    for name in ("transforms", "step, fixed batch", "step from shards"):
        yield f"{model}: {name}", _rate(found["stages"][name]["repetitions"])
    yield f"{model}: bound by", found["verdict"]["sentence"]


def _steps(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in found["results"]:
        compiled = "compiled" if one["compile"] == "on" else "eager"
        title = f"step: {one['model']} {one['image_size']} px, {one['amp']}, {compiled}"
        ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in one["ours_over"].items())
        missing = "; ".join(f"{name}: {reason}" for name, reason in one["not_run"].items())
        rates = one["repetitions"].get("food101_fast")
        yield title, "; ".join(filter(None, (_rate(rates) if rates else "", ratios, missing)))


def _transforms(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, of in found["images_per_second"].items():
        if name.startswith("preset"):
            yield name, _rate(of.get("ours, compiled", of["ours"]))
        elif name == "RandomResizedCrop + flip":
            best = of.get("ours, compiled", of["ours"])
            others = ((other, rates) for other, rates in of.items() if not other.startswith("ours"))
            yield name, ", ".join(f"{median_of_ratios(best, rates):.1f} x {other}" for other, rates in others)


def _pipelines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, of in found["images_per_second"].items():
        for name, rates in of.items():
            yield f"pipeline, {kind}: {name}", _rate(rates)


def _peers(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for encoding in ("raw", "jpeg"):
        for report in found["loading"][encoding].values():
            if "error" not in report:
                yield f"loading, {encoding}: {report['name']}", _rate(report["images_per_second"])


def _accuracy(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    agreement = found["agreement"]
    yield "accuracy, ours - plain loop", f"{agreement['difference']:+.4f} +- {agreement['standard_error']:.4f}"


PARTS = {
    "device": _device,
    "stages": _stages,
    "steps": _steps,
    "transforms": _transforms,
    "pipelines": _pipelines,
    "peers": _peers,
    "accuracy": _accuracy,
}
"""By the beginning of a file's name."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/summary", argv)
    files = {
        file: lines
        for part, lines in PARTS.items()
        for file in sorted(settings.results.glob(f"{part}-*{settings.device}.json"))
    }
    if not files:
        raise UserError(f"{settings.results} has no results of {settings.device}; run benchmarks/gpu.sh first")
    for file, lines in files.items():
        for name, value in lines(orjson.loads(file.read_bytes())):
            print(f"{name:<56} {value}")
    print("images per second: median (lowest to highest)")


if __name__ == "__main__":
    exit_with(main)
