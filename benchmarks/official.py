"""Trials on Food-101's photographs with the official split: the data, runs that are kept, means with standard errors.

notebook.py, recipes.py and full_food101.py share it. A run that its folder already has, finished, evaluated and with
the same recipe, is not trained again, so that a long measurement can be interrupted.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from annotated_types import Gt, Lt
from estimates import mean_and_error
from official_split import Settings as SplitSettings
from official_split import write_table

from food101_fast.compute.device import Device
from food101_fast.evaluate import evaluate
from food101_fast.images import Decode
from food101_fast.limits import check_limits
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.processes import usable_cores
from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.probe import read_probe
from food101_fast.runs.results import best_epoch, read_metrics
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train

Task = TypeVar("Task")
Result = TypeVar("Result")

MEASURED = ("val_top1", "val_top5", "test_top1", "test_top5")
"""Accuracies of an outcome."""


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Food-101 photographs, and where what is made of them goes."""

    photos: Path
    """Folder with a folder of photographs for each class, which have their original names."""
    names: Path
    """Folder with the parquet files of the hub's `ethz/food101` at any size, for the official split."""
    work: Path
    """Folder for the table, shards and runs. A finished run in it is used again."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the official training images of each class that are val."""

    def __post_init__(self) -> None:
        check_limits(self)

    @property
    def listing(self) -> Path:
        """CSV with the columns file, label and split."""
        return self.work / "official.csv"

    def shards(self, size: int, decode: Decode = "scaled") -> ShardSet:
        """Shards of this size, prepared if they are not there yet.

        Raises:
            UserError: there are no photographs or no lists, or the folder has other shards.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        if not self.listing.exists():
            write_table(
                SplitSettings(photos=self.photos, names=self.names, out=self.listing, val_fraction=self.val_fraction)
            )
        folder = self.work / f"shards-{size}-{decode}"
        # Programs that read the photographs themselves have the same images, so identical files stay.
        prepare(
            PrepareSettings(
                source=f"table:{self.listing}", splits="source", size=size, decode=decode, duplicates="keep", out=folder
            )
        )
        return ShardSet.open(folder)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run reached: accuracies, between 0 and 1, of the epoch that is best on val."""

    seed: int
    val_top1: float
    val_top5: float
    test_top1: float
    test_top5: float
    best_epoch: int
    """Counted from 1."""
    images: int
    """Images that the training steps saw."""
    pixels: int
    """Their pixels as the model sees them, height x width."""
    seconds: float
    """Training steps, without validation; of a probe, all of it."""
    images_per_second: float
    curve: tuple[float, ...]
    """Top-1 on val after each epoch."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run that is trained and evaluated."""

    name: str
    shards: Path
    folder: Path
    recipe: Recipe
    device: Device = "cpu"


def outcome_of(folder: Path) -> Outcome:
    """The outcome of a run that is finished and evaluated on val and test."""
    recipe = read_run(folder).recipe
    scores: dict[str, float] = {}
    for split in ("val", "test"):
        metrics = read_evaluation(folder, split)
        assert metrics is not None, "it was evaluated"
        scores |= {f"{split}_top1": metrics.top1, f"{split}_top5": metrics.top5}
    if recipe.method == "probe":
        probe = read_probe(folder)
        train = next(file for file in probe.features if file.split == "train")
        best, curve = 1, [scores["val_top1"]]
        images, seconds = train.samples, probe.seconds
        pixels = images * recipe.image_size**2
    else:
        rows = read_metrics(folder)
        best, curve = best_epoch(rows).epoch, [row.val_top1 for row in rows]
        images, seconds = sum(row.timing.images for row in rows), sum(row.timing.seconds for row in rows)
        pixels = sum(row.timing.images * row.image_size**2 for row in rows)
    return Outcome(
        seed=recipe.seed, best_epoch=best, images=images, pixels=pixels, seconds=seconds,
        images_per_second=images / seconds, curve=tuple(curve), **scores,
    )  # fmt: skip


def tried(trial: Trial) -> Outcome:
    """Train and evaluate, unless the folder has this run already."""
    folder = trial.folder
    if not (folder.exists() and read_run(folder).recipe == trial.recipe and read_evaluation(folder, "test")):
        shutil.rmtree(folder, ignore_errors=True)
        train(ShardSet.open(trial.shards), folder, trial.recipe, device=trial.device)
        for split in ("val", "test"):
            evaluate(folder, split=split, device=trial.device, calibration=False)
    return outcome_of(folder)


def all_tried(trials: Sequence[Trial], jobs: int, said: Callable[[Trial, Outcome], None]) -> dict[str, list[Outcome]]:
    """The outcomes of each name, by seed.

    Args:
        trials: to run.
        jobs: how many at once; they share the cores. Only one at a time gives comparable seconds.
        said: called as each of them ends.
    """
    found: dict[str, list[Outcome]] = {trial.name: [] for trial in trials}
    for trial, outcome in each(tried, trials, jobs):
        said(trial, outcome)
        found[trial.name].append(outcome)
    return {name: sorted(of, key=lambda outcome: outcome.seed) for name, of in found.items()}


def each(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Result]]:
    """Each task and its result, as it is done: one after the other, or in so many processes that share the cores."""
    if jobs == 1:
        yield from ((task, function(task)) for task in tasks)
        return
    threads = max(1, usable_cores() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        waiting = {pool.submit(function, task): task for task in tasks}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def summed_up(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All outcomes of one name, and the means of what they measured."""
    of_all = {name: mean_and_error([getattr(outcome, name) for outcome in outcomes]) for name in MEASURED}
    return {**of_all, "runs": [asdict(outcome) for outcome in outcomes]}


def line(name: str, outcome: Outcome) -> str:
    """An outcome in one line."""
    return (
        f"{name}, seed {outcome.seed}: val top-1 {outcome.val_top1:.4f}, test {outcome.test_top1:.4f}, "
        f"top-5 {outcome.test_top5:.4f}; {outcome.seconds:.0f} s, {outcome.images_per_second:.0f} images/s"
    )
