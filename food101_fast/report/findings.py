"""What a report shows: everything that a run's folder holds, and its pictures where the shards are at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from food101_fast.errors import UserError
from food101_fast.evaluate.metrics import confusion
from food101_fast.runs.checkpoint import has_checkpoint
from food101_fast.runs.evaluation import read_ensemble, read_evaluation, read_predictions
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.results import EpochRow, read_metrics
from food101_fast.runs.run import Run, read_run
from food101_fast.shards import ShardSet


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What the best checkpoint says about each sample of a split."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """(N, classes)."""
    predicted: NDArray[np.int64]
    """The most probable class of each sample."""
    counts: NDArray[np.int64]
    """Counts of (true class, predicted class)."""

    def mistakes(self, true: int | None = None, predicted: int | None = None) -> NDArray[np.int64]:
        """Places of the samples that were taken for another class, the most confident first.

        Args:
            true: only those of this class.
            predicted: only those that were taken for this one.
        """
        wrong = self.predicted != self.labels
        if true is not None:
            wrong &= self.labels == true
        if predicted is not None:
            wrong &= self.predicted == predicted
        places = np.flatnonzero(wrong)
        order = np.argsort(-self.probabilities[places, self.predicted[places]], kind="stable")
        return np.asarray(places[order], np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """A run's folder, read. What was not done yet is None or empty."""

    folder: Path
    run: Run
    epochs: list[EpochRow]
    """Its finished epochs, at least one."""
    split: str
    metrics: dict[str, Any] | None
    """What `evaluate` found on the split."""
    predictions: Predictions | None
    ensemble: dict[str, Any] | None
    """What `evaluate` found for this run and others together."""
    shards: ShardSet | None
    """Where the pictures are."""
    missing_pictures: str | None
    """Why there are none."""

    @property
    def name(self) -> str:
        """What to call the run."""
        return self.folder.absolute().name


def read_findings(folder: Path, split: str, shards: str | None = None) -> Findings:
    """Read a run's folder.

    Args:
        folder: of the run.
        split: whose evaluation is shown.
        shards: folder or URL of the shards, if they moved since the run was trained.

    Raises:
        UserError: there is no run with a finished epoch, or `shards` are given and can't be opened or are others.
    """
    run = read_run(folder)
    epochs = read_metrics(folder)
    if not epochs or not has_checkpoint(folder, "best"):
        what = RunFolder(folder).epochs.name if not epochs else "checkpoint 'best'"
        raise UserError(f"{folder} has no {what} of a finished epoch, so there is nothing to report; train it first")
    metrics = read_evaluation(folder, split)
    opened, missing = _open_shards(run, shards)
    return Findings(
        folder=folder,
        run=run,
        epochs=epochs,
        split=split,
        metrics=metrics,
        predictions=None if metrics is None else _predictions(folder, split),
        ensemble=None if metrics is None else read_ensemble(folder, split, metrics),
        shards=opened,
        missing_pictures=missing,
    )


def _open_shards(run: Run, shards: str | None) -> tuple[ShardSet | None, str | None]:
    try:
        opened = ShardSet.open(run.shards if shards is None else shards)
    except UserError as error:
        if shards is not None:
            raise
        return None, f"the shards are not where the run was trained from ({error}); give their place to --shards"
    if opened.manifest.digest == run.data:
        return opened, None
    if shards is not None:
        raise UserError(f"the run was trained on other shards than {shards}; give the right ones to --shards")
    return None, f"other shards lie now at {run.shards}; give the place of the run's own to --shards"


def _predictions(folder: Path, split: str) -> Predictions:
    stored = read_predictions(folder, split)
    labels, logits = stored.labels, stored.logits
    return Predictions(
        ids=stored.ids,
        labels=labels,
        probabilities=softmax(logits.astype(np.float64), axis=1),
        predicted=np.asarray(logits.argmax(axis=1), np.int64),
        counts=confusion(logits, labels),
    )
