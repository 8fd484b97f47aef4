"""What a report is made from: everything in a run's folder, and the shards, if they can be opened, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.evaluate.metrics import ConfusionCells, confusion_cells
from food101_fast.runs.checkpoint import has_checkpoint
from food101_fast.runs.evaluation import Predictions, read_ensemble, read_evaluation, read_predictions
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.metrics import EnsembleMetrics, SplitMetrics
from food101_fast.runs.results import EpochRow, read_metrics
from food101_fast.runs.run import Run, read_run
from food101_fast.shards import ShardSet


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """What `evaluate` wrote about a split."""

    metrics: SplitMetrics
    predictions: Predictions
    ensemble: EnsembleMetrics | None
    """Metrics of the average of this run and others; None if there is no average."""

    @cached_property
    def cells(self) -> ConfusionCells:
        """How often which class was taken for which one."""
        return confusion_cells(self.predictions.logits, self.predictions.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """A run's folder, read."""

    folder: Path
    run: Run
    epochs: list[EpochRow]
    """Finished epochs, at least one."""
    split: str
    """The split that the report shows."""
    evaluated: Evaluated | None
    """None if the split was not evaluated since the run was trained."""
    shards: ShardSet | None
    """Source of the pictures; None without pictures."""
    missing_pictures: str | None
    """Why there are no pictures; None with pictures."""

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return self.folder.absolute().name


def read_findings(folder: Path, split: str, shards: str | None = None, overlays: Sequence[str] = ()) -> Findings:
    """Read a run's folder.

    Args:
        folder: of the run.
        split: the split to show.
        shards: folder or URL of the shards, if they moved since the run was trained.
        overlays: of the shards, if they moved since.

    Raises:
        UserError: the folder has no run with a finished epoch, or `shards` can't be opened or is another data set.
    """
    run = read_run(folder)
    epochs = read_metrics(folder)
    if not epochs or not has_checkpoint(folder, "best"):
        what = RunFolder(folder).epochs.name if not epochs else "checkpoint 'best'"
        raise UserError(f"{folder} has no {what} of a finished epoch, so there is nothing to report; train it first")
    evaluated = _read_evaluated(folder, split)
    opened, missing = _open_shards(run, shards, overlays)
    return Findings(
        folder=folder,
        run=run,
        epochs=epochs,
        split=split,
        evaluated=evaluated,
        shards=opened,
        missing_pictures=missing,
    )


def main_split(folders: Sequence[Path]) -> str:
    """The split that a page shows if none is given: test, or val if the shards of a run have no test.

    Raises:
        UserError: a folder has no run.
    """
    return "test" if all(read_run(folder).main_split == "test" for folder in folders) else "val"


def missing_evaluation(folder: Path, split: str) -> str | None:
    """What to do so that a page has the results of a run on a split; None if it has them.

    Args:
        folder: of the run.
        split: the split to show.

    Raises:
        UserError: the evaluation is damaged.
    """
    if read_evaluation(folder, split) is not None:
        return None
    try:
        read_run(folder).check_split(split)
    except UserError as error:
        return f"{folder} has no results on {split}: {error}"
    evaluated = RunFolder(folder).evaluation(split).is_file()
    why = f"was trained on after its evaluation on {split}" if evaluated else f"was not evaluated on {split}"
    command = f"python -m food101_fast.evaluate --run {folder}" + ("" if split == "test" else f" --split {split}")
    return f"{folder} {why}, so the page has no results of it there; run {command}"


def _read_evaluated(folder: Path, split: str) -> Evaluated | None:
    metrics = read_evaluation(folder, split)
    if metrics is None:
        return None
    return Evaluated(
        metrics=metrics,
        predictions=read_predictions(folder, split),
        ensemble=read_ensemble(folder, split, metrics),
    )


def _open_shards(run: Run, override: str | None, overlays: Sequence[str]) -> tuple[ShardSet | None, str | None]:
    """The shards, or why there are none."""
    try:
        return run.open_shards(override, overlays), None
    except UserError as error:
        if override is not None or overlays:
            raise
        return None, str(error)
