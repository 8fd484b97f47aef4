"""Images per second from shards to a device, for each encoding, residence and decoder, against the bus to the device.

    python benchmarks/device.py --raw DIR --jpeg DIR [--device cuda] [--json FILE] [--rows FILE]

Whole epochs after the first one; every batch is waited for at the end of an epoch only. Each takes turns with the bus:
copies of a raw batch from page-locked memory. What needs something that is missing here is listed with the reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from published import Measurement

from food101_fast.bench.measure import Work, measure, median_of_ratios
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
    """Shortest duration of one, in seconds; an epoch is always finished."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each row to as it is measured."""
    part: str = "device"
    """What the rows are marked with."""


BUS = "copies alone, page-locked (the bus)"


def bus(shards: ShardSet, device: torch.device, settings: Settings) -> Work:
    """Copies of a raw batch alone."""
    row_bytes = shards.split("train").row_bytes
    pinned = torch.ones(settings.batch_size, row_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def copies() -> int:
        for _ in range(8):
            pinned.to(device, non_blocking=True, copy=True)
        return 8 * settings.batch_size

    return copies


def epoch(shards: ShardSet, residence: str, decode: str, device: torch.device, settings: Settings) -> Work:
    """An epoch of batches.

    Raises:
        UserError: the device or the machine lacks what it needs.
    """
    loader = ShardLoader(
        shards,
        split="train",
        batch_size=settings.batch_size,
        device=device,
        residence=residence,  # type: ignore[arg-type]
        decode=decode,  # type: ignore[arg-type]
    )
    return lambda: sum(batch.images.shape[0] for batch in loader)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/device", argv)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    device = measurement.device
    sets = {"raw": ShardSet.open(settings.raw), "jpeg": ShardSet.open(settings.jpeg)}
    copies = bus(sets["raw"], device, settings)
    results: dict[str, Any] = {}
    print(f"{'':<40}{'images/s':>12}{'lowest':>12}{'highest':>12}{'over bus':>10}", flush=True)
    for encoding, shards in sets.items():
        for residence in ("stream", "host", "device"):
            for decode in ("cpu", "gpu") if encoding == "jpeg" and residence != "host" else ("cpu",):
                name = f"{encoding}, residence {residence}" + (", nvJPEG" if decode == "gpu" else "")
                try:
                    works = {BUS: copies, name: epoch(shards, residence, decode, device, settings)}
                    timing: dict[str, Any] = {"seconds": settings.seconds, "repetitions": settings.repetitions}
                    rates = measure(works, device=device, **timing)
                except UserError as error:
                    results[name] = str(error)
                    measurement.rows.missing(name, str(error))
                    print(f"{name:<40}{error}", flush=True)
                    continue
                if BUS not in results:
                    results[BUS] = rates[BUS]
                    measurement.rows.rates(BUS, rates[BUS], bytes_per_image=sets["raw"].split("train").row_bytes)
                results[name] = rates[name]
                over = {"the bus": median_of_ratios(rates[name], rates[BUS])}
                measurement.rows.rates(name, rates[name], over=over, bus=rates[BUS])
                line = (statistics.median(rates[name]), min(rates[name]), max(rates[name]))
                cells = "".join(f"{rate:>12,.0f}" for rate in line)
                print(f"{name:<40}{cells}{over['the bus']:>10.2f}", flush=True)
    measurement.publish(
        {name: getattr(settings, name) for name in ("batch_size", "repetitions", "seconds")},
        samples={name: shards.manifest.splits["train"].samples for name, shards in sets.items()},
        images_per_second=results,
    )


if __name__ == "__main__":
    exit_with(main)
