"""Two trained runs teach one smaller network, against the same network without a teacher; several seeds of each.

    python benchmarks/distillation.py --work DIR [--json FILE] [--rows FILE]

Needs no data and no network: the pictures are drawn (`demo:`). Most of them are for validation and test, so that the
task is not too easy and its results not too coarse. Two teachers of one architecture with different seeds are trained
first; then students, with the same recipe but for the teacher, from scratch. Every number is of the best checkpoint by
validation top-1, so test top-1 is the one to look at. A standard error is that of the mean over seeds; the difference
is seed against seed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from estimates import Estimate, mean_and_error
from published import Measurement
from scipy.stats import ttest_rel

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.evaluate import evaluate
from food101_fast.limits import check_limits
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.results import best_epoch
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train

SPLITS = ("val", "test")
TEACHER, ALONE, DISTILLED = "teacher", "student alone", "student with teacher"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A small network with and without two teachers, on drawn pictures."""

    work: Path
    """Folder for shards and runs; must not exist."""
    device: Device = "auto"
    """Where to compute."""
    limit: int | None = None
    """Use only this many pictures; all 1,000 by default."""
    fractions: tuple[float, float, float] = (0.4, 0.2, 0.4)
    """Shares of train, val and test."""
    image_size: int = 64
    """Height and width that the networks see, in pixels."""
    teacher: str = "resnet18"
    """Network of both teachers."""
    teacher_epochs: int = 8
    """Epochs of each teacher."""
    student: str = "shufflenet_v2_x0_5"
    """Network of the students."""
    epochs: int = 12
    """Epochs of each student."""
    temperature: float = 2.0
    """Temperature of the teachers' probabilities."""
    weight: float = 0.5
    """Share of the teachers in the loss."""
    seeds: Annotated[int, Ge(2)] = 3
    """Students of each kind, with the seeds 0, 1, ..."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each run to as it ends."""
    part: str = "distillation"
    """What the rows are marked with."""

    def __post_init__(self) -> None:
        check_limits(self)


def trained(shards: ShardSet, folder: Path, recipe: Recipe, device: Device) -> dict[str, float]:
    """Train and evaluate a run: top-1 of its best checkpoint on val and test, and seconds of training."""
    begun = time.perf_counter()
    metrics = train(shards, folder, recipe, device=device).metrics
    seconds = time.perf_counter() - begun
    test = evaluate(folder, shards=shards.location, device=device).metrics.top1
    return {"val": best_epoch(metrics).val_top1, "test": test, "seconds": seconds}


def table(results: Mapping[str, Sequence[Mapping[str, float]]], summary: Mapping[str, Estimate]) -> str:
    """All runs and the means of each kind, as text."""
    lines = [f"{'':<32}{'val top-1':>18}{'test top-1':>18}{'seconds':>10}"]
    for kind, runs in results.items():
        for seed, run in enumerate(runs):
            lines.append(f"{f'{kind}, seed {seed}':<32}{run['val']:>18.4f}{run['test']:>18.4f}{run['seconds']:>10.0f}")
        means = [summary[f"{kind}, {split}"] for split in SPLITS]
        texts = [f"{one['mean']:.4f} ± {one['standard_error']:.4f}" for one in means]
        lines.append(f"{f'{kind}, mean':<32}{texts[0]:>18}{texts[1]:>18}")
    return "\n".join(lines)


def summarized(results: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Estimate]:
    """Means of each kind of run on each split, and the difference that the teachers make."""
    summary: dict[str, Estimate] = {}
    for split in SPLITS:
        for kind, runs in results.items():
            summary[f"{kind}, {split}"] = mean_and_error([run[split] for run in runs])
        taught, alone = ([run[split] for run in results[kind]] for kind in (DISTILLED, ALONE))
        gains = [a - b for a, b in zip(taught, alone, strict=True)]
        p_value = float(ttest_rel(taught, alone).pvalue) if len(set(gains)) > 1 else 1.0
        summary[f"difference, {split}"] = {**mean_and_error(gains), "p_value": p_value}
    return summary


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/distillation", argv)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    folder = settings.work / "shards"
    stored = PrepareSettings(
        source="demo:", out=folder, size=settings.image_size, fractions=settings.fractions, limit=settings.limit
    )
    prepare(stored)
    shards = ShardSet.open(folder)
    teacher = Recipe(
        model=settings.teacher, weights="none", image_size=settings.image_size, epochs=settings.teacher_epochs,
        batch_size=16, optimizer="adamw", learning_rate=1e-3, schedule="cosine", weight_decay=0.01, patience=None,
    )  # fmt: skip
    alone = replace(teacher, model=settings.student, epochs=settings.epochs, learning_rate=2e-3)
    teachers = [settings.work / f"teacher-{seed}" for seed in range(2)]
    distilled = replace(
        alone, teacher=tuple(map(str, teachers)), teacher_temperature=settings.temperature,
        teacher_weight=settings.weight,
    )  # fmt: skip
    jobs = [(TEACHER, path, replace(teacher, seed=100 + seed)) for seed, path in enumerate(teachers)]
    for seed in range(settings.seeds):
        for kind, recipe in ((ALONE, alone), (DISTILLED, distilled)):
            jobs.append((kind, settings.work / f"{kind.replace(' ', '-')}-{seed}", replace(recipe, seed=seed)))
    results: dict[str, list[dict[str, float]]] = {}
    for kind, path, recipe in jobs:
        result = trained(shards, path, recipe, settings.device)
        results.setdefault(kind, []).append(result)
        measurement.rows.value(f"{kind}, seed {recipe.seed}", result["test"], "test top-1", **result)
        print(f"{path.name}: val {result['val']:.4f}, test {result['test']:.4f}, {result['seconds']:.0f} s", flush=True)
    summary = summarized(results)
    print(table(results, summary))
    for split in SPLITS:
        gain = summary[f"difference, {split}"]
        print(
            f"{split}: the teachers change top-1 by {gain['mean']:+.4f} ± {gain['standard_error']:.4f} "
            f"(p = {gain['p_value']:.2f})"
        )
    kept = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    samples = {name: entry.samples for name, entry in shards.manifest.splits.items()}
    measurement.publish(kept, samples=samples, runs=results, summary=summary)


if __name__ == "__main__":
    exit_with(main)
