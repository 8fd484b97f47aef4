"""Images per second of our loader and of webdataset on the same shards, interleaved in one run.

    python benchmarks/loader.py --shards DIR [--json FILE]

Both give shuffled batches of the train split as arrays in memory, with the page cache warm. A repetition is whole
epochs, so that starting workers and filling buffers is paid by whoever needs it; the median and the range over the
repetitions are printed, and the ratio is that of the medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
import webdataset

from food101_fast.bench.stages import machine
from food101_fast.cli import exit_with, parse
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet
from food101_fast.shards.folder import write_atomically
from food101_fast.shards.layout import ENCODINGS
from food101_fast.train.run import versions


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of our loader and of webdataset on the same shards."""

    shards: Path
    """Folder of raw shards."""
    json: Path | None = None
    """File to write the results to."""
    batch_size: int = 256
    """Images per batch."""
    workers: int = 2
    """webdataset's DataLoader workers."""
    epochs: int = 5
    """Epochs of ours in one repetition, since one alone is over too soon to be timed."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""


def images_in(batches: Iterable[Sequence[object]]) -> int:
    """Go through all batches; the images counted are those that arrived."""
    return sum(len(batch[0]) for batch in batches)  # type: ignore[arg-type]


def ours(shards: ShardSet, settings: Settings) -> Callable[[], int]:
    """Whole epochs of our loader, one process."""
    loader = ShardLoader(shards, split="train", batch_size=settings.batch_size, drop_last=False)
    return lambda: images_in((batch.images,) for _ in range(settings.epochs) for batch in loader)


def peer(shards: ShardSet, settings: Settings) -> Callable[[], int]:
    """One epoch of webdataset as its documentation has it: shuffle buffer, decode, batches made in the workers."""
    tars = [str(settings.shards / entry.name) for entry in shards.manifest.splits["train"].shards]

    def run() -> int:
        dataset = (
            webdataset.WebDataset(tars, shardshuffle=len(tars), workersplitter=webdataset.split_by_worker)
            .shuffle(1000)
            .decode("rgb8")
            .to_tuple(ENCODINGS[shards.manifest.encoding], "cls")
            .batched(settings.batch_size)
        )
        return images_in(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=settings.workers))

    return run


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/loader", argv)
    shards = ShardSet.open(settings.shards)
    contenders = {"food101_fast": ours(shards, settings), "webdataset": peer(shards, settings)}
    expected = {"food101_fast": settings.epochs, "webdataset": 1}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(settings.repetitions + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            images = run()
            rates[name].append(images / (time.perf_counter() - start))
            if images != expected[name] * len(shards.split("train")):
                sys.exit(f"{name} delivered {images} images, which is not whole epochs")
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    ratio = medians["food101_fast"] / medians["webdataset"]
    for name, values in rates.items():
        print(f"{name:<14}{medians[name]:>10,.0f} images/s  (from {min(values[1:]):,.0f} to {max(values[1:]):,.0f})")
    print(f"ratio {ratio:.1f}")
    if settings.json is not None:
        result = {
            "version": 1,
            "machine": machine(torch.device("cpu")),
            "versions": {**versions(), "webdataset": webdataset.__version__},
            "settings": {name: str(value) for name, value in vars(settings).items() if name not in ("shards", "json")},
            "samples": len(shards.split("train")),
            "stored_size": shards.manifest.image_size,
            "encoding": shards.manifest.encoding,
            "images_per_second": {name: values[1:] for name, values in rates.items()},
            "ratio": ratio,
        }
        write_atomically(settings.json, orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    exit_with(main)
