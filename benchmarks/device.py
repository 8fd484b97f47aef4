"""Images per second from shards to a device, for each encoding, residence and decoder, against the bus to the device.

    python benchmarks/device.py --raw DIR --jpeg DIR [--device cuda] [--json FILE]

Whole epochs after the first one; every batch is waited for at the end of an epoch only. The bus is measured in the same
run: copies of a batch from page-locked memory. What needs something that is not here is listed with the reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from published import Measurement

from food101_fast.bench.measure import Work, measure
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second from shards to a device."""

    raw: Path
    """Folder of raw shards."""
    jpeg: Path
    """Folder of JPEG shards."""
    device: Literal["cpu", "cuda"] = "cuda"
    """Where batches go."""
    batch_size: int = 512
    """Images per batch."""
    repetitions: int = 5
    """Repetitions, after a first epoch that is not counted."""
    seconds: float = 1.0
    """Length of one, at the least; an epoch is not broken off."""
    json: Path | None = None
    """File to write the results to."""


def timed(run: Work, device: torch.device, settings: Settings) -> list[float]:
    """Images per second of `run`, which returns a number of images, in each repetition."""
    return measure({"": run}, seconds=settings.seconds, repetitions=settings.repetitions, device=device)[""]


def bus(shards: ShardSet, device: torch.device, settings: Settings) -> list[float]:
    """Images per second of copies alone."""
    row_bytes = shards.split("train").row_bytes
    pinned = torch.ones(settings.batch_size, row_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def copies() -> int:
        for _ in range(8):
            pinned.to(device, non_blocking=True, copy=True)
        return 8 * settings.batch_size

    return timed(copies, device, settings)


def contender(shards: ShardSet, residence: str, decode: str, device: torch.device, settings: Settings) -> Any:
    """Its rates, or why there are none."""
    try:
        loader = ShardLoader(
            shards,
            split="train",
            batch_size=settings.batch_size,
            device=device,
            residence=residence,  # type: ignore[arg-type]
            decode=decode,  # type: ignore[arg-type]
        )
        return timed(lambda: sum(batch.images.shape[0] for batch in loader), device, settings)
    except UserError as error:
        return str(error)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/device", argv)
    measurement = Measurement(settings.json, settings.device)
    device = measurement.device
    sets = {"raw": ShardSet.open(settings.raw), "jpeg": ShardSet.open(settings.jpeg)}
    results: dict[str, Any] = {"copies alone, page-locked (the bus)": bus(sets["raw"], device, settings)}
    for encoding, shards in sets.items():
        for residence in ("stream", "host", "device"):
            for decode in ("cpu", "gpu") if encoding == "jpeg" and residence != "host" else ("cpu",):
                name = f"{encoding}, residence {residence}" + (", nvJPEG" if decode == "gpu" else "")
                results[name] = contender(shards, residence, decode, device, settings)
    print(f"{'':<40}{'images/s':>12}{'lowest':>12}{'highest':>12}{'GB/s':>8}")
    for name, rates in results.items():
        if isinstance(rates, str):
            print(f"{name:<40}{rates}")
            continue
        size = sets["raw" if "jpeg" not in name else "jpeg"].split("train").row_bytes
        median = statistics.median(rates)
        print(f"{name:<40}{median:>12,.0f}{min(rates):>12,.0f}{max(rates):>12,.0f}{median * size / 1e9:>8.2f}")
    measurement.publish(
        {name: getattr(settings, name) for name in ("batch_size", "repetitions", "seconds")},
        samples={name: shards.manifest.splits["train"].samples for name, shards in sets.items()},
        images_per_second=results,
    )


if __name__ == "__main__":
    exit_with(main)
