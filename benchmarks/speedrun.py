"""A speed run on Food-101: seconds of training until a model reaches a given accuracy, over several seeds.

    python benchmarks/speedrun.py --shards DIR --weights FILE --target 0.5076 [--device cuda] [--json FILE]

The rules are those of airbench (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024): the same recipe with
many seeds; the mean accuracy over them must reach the target; the seconds are those of training from its first look at
the data to the last step, validation and checkpoint included. A first run, which fills the caches of the compiler and
of cuDNN, is not counted, and what it took longer is said apart. It has the seed of the second, which shows what is the
same on this device and what is not. The file with the results holds the code.

Tracks are told apart by where the weights start (`none`, or ImageNet's) and by the target in top-1: 0.5076, the random
forest of the data set's paper (Bossard et al., ECCV 2014); 0.7135, the notebook that this project replaces; 0.80. What
counts is the accuracy on the split `val` after the last epoch, not the best one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.loader import LoaderOptions
from food101_fast.runs.recipes import RECIPES
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seconds of training until a target accuracy, over several seeds."""

    shards: Path
    """Folder of shards."""
    target: float = 0.7135
    """Mean top-1 that is to be reached."""
    seeds: int = 10
    """Runs that count, with the seeds 1, 2, ..."""
    device: Device = "auto"
    """Where to train."""
    loading: LoaderOptions = field(default_factory=LoaderOptions)
    """How images are loaded."""
    recipe: Recipe = RECIPES["fast"]
    """What to train; the recipe `fast` by default."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each run to as it ends."""
    part: str = "speedrun"
    """What the rows are marked with."""


@dataclass(frozen=True)
class Done:
    """A run that has ended."""

    seconds: float
    metrics: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]

    @property
    def top1(self) -> float:
        """Of validation after the last epoch."""
        return float(self.metrics[-1]["val_top1"])


def run(settings: Settings, seed: int, device: Device) -> Done:
    """Train with a seed, timed from the shards' folder to the last checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, place = replace(settings.recipe, seed=seed), Path(folder) / "run"
        begun = time.perf_counter()
        shards = ShardSet.open(settings.shards)
        rows = train(shards, place, recipe, device=device, loading=settings.loading).metrics
        seconds = time.perf_counter() - begun
        weights = safetensors.torch.load_file(place / "checkpoints" / "last" / "model.safetensors")
    return Done(seconds, [asdict(row) for row in rows], weights)


def compared(first: Done, again: Done) -> dict[str, Any]:
    """What is the same in two runs with one seed."""
    pairs = [(first.weights[name].double(), again.weights[name].double()) for name in first.weights]
    return {
        "equal_tensors": sum(torch.equal(one, other) for one, other in pairs),
        "tensors": len(pairs),
        "largest_difference": max(float((one - other).abs().max()) for one, other in pairs),
        "train_loss": [[row["train_loss"] for row in of.metrics] for of in (first, again)],
        "val_top1": [[row["val_top1"] for row in of.metrics] for of in (first, again)],
    }


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/speedrun", argv)
    measurement = Measurement(
        settings.json,
        settings.device,
        rows=settings.rows,
        part=settings.part,
        settings={"recipe": asdict(settings.recipe)},
    )
    device: Device = "cuda" if measurement.device.type == "cuda" else "cpu"
    warm_up = run(settings, 1, device)
    runs: list[Done] = []
    for seed in range(1, settings.seeds + 1):
        done = run(settings, seed, device)
        runs.append(done)
        measurement.rows.value(f"seed {seed}", done.seconds, "s", top1=done.top1, epochs=done.metrics)
        print(f"seed {seed}: top-1 {done.top1:.4f} after {done.seconds:.2f} s", flush=True)
        if seed == 1:
            same = compared(done, warm_up)
            measurement.rows.value("equal tensors of seed 1 twice", same["equal_tensors"], "", **same)
    seconds, top1 = ([getattr(done, name) for done in runs] for name in ("seconds", "top1"))
    verdict = {
        "target": settings.target,
        "reached": statistics.mean(top1) >= settings.target,
        "top1": _spread(top1),
        "seconds": _spread(seconds),
        "first_run_took_longer": warm_up.seconds - statistics.mean(seconds),
        "seed_1_twice": same,
    }
    measurement.rows.value("mean", statistics.mean(seconds), "s", **verdict)
    print(
        f"top-1 {statistics.mean(top1):.4f} (deviation {verdict['top1']['deviation']:.4f}) over {len(runs)} seeds, "
        f"{'at least' if verdict['reached'] else 'below'} the target {settings.target}; "
        f"{statistics.mean(seconds):.2f} s (deviation {verdict['seconds']['deviation']:.2f}); the run before them took "
        f"{verdict['first_run_took_longer']:.1f} s longer"
    )
    print(
        f"seed 1 twice: {same['equal_tensors']} of {same['tensors']} tensors are equal, the largest difference is "
        f"{same['largest_difference']:.2g}; top-1 {runs[0].top1:.4f} and {same['val_top1'][1][-1]:.4f}"
    )
    measurement.publish(
        {"recipe": asdict(settings.recipe), "seeds": settings.seeds, "target": settings.target},
        samples={name: entry.samples for name, entry in ShardSet.open(settings.shards).manifest.splits.items()},
        runs=[{"seconds": done.seconds, "top1": done.top1, "epochs": done.metrics} for done in runs],
        verdict=verdict,
        code=Path(__file__).read_text(),
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "deviation": deviation, "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    exit_with(main)
