"""Measure a run's best checkpoint on a split, and write metrics, predictions and plots into the run's folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure

from food101_fast.compute.device import Device, choose_device
from food101_fast.compute.logits import predict
from food101_fast.compute.precision import inference_precision
from food101_fast.errors import UserError
from food101_fast.evaluate.metrics import calibration as calibration_of
from food101_fast.evaluate.metrics import compute_metrics, confusion, confusion_cells, cross_entropy, normalized
from food101_fast.evaluate.temperature import fit_temperature
from food101_fast.evaluate.views import Tta, averaged, views
from food101_fast.loader import ShardLoader
from food101_fast.plots import plot_class_counts, plot_confusion, plot_curves, png
from food101_fast.progress import bar, warn
from food101_fast.runs.calibration import Temperature, read_temperature, write_temperature
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.evaluation import (
    Predictions,
    read_evaluation,
    read_predictions,
    write_ensemble,
    write_evaluation,
)
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.metrics import CalibratedScores, EnsembleMetrics, SplitMetrics, as_member, tells_top5
from food101_fast.runs.results import EpochRow, read_metrics
from food101_fast.runs.run import Run, load_model, read_run
from food101_fast.shards import ShardSet
from food101_fast.storage import write_atomically, writing

_MOST_CELLS = 1000  # of a confusion matrix that is drawn, in each direction

Metrics = TypeVar("Metrics", SplitMetrics, EnsembleMetrics)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[Metrics]):
    """What an evaluation measured and wrote."""

    metrics: Metrics
    files: tuple[Path, ...]
    """Metrics, predictions and plots."""


def evaluate(
    folder: Path,
    *,
    split: str = "test",
    shards: str | Path | None = None,
    overlays: Sequence[str] = (),
    device: Device = "auto",
    batch_size: int = 256,
    tta: Tta = "none",
    calibration: bool = True,
) -> Evaluation[SplitMetrics]:
    """Evaluate the best checkpoint of the run in `folder`.

    Writes `{split}_metrics.json`, `predictions.npz` (`ids`, `labels`, `logits`), and PNGs of the confusion matrix,
    the curves and the class counts. For a split other than test, predictions and confusion matrix have the prefix
    `{split}_`.

    Evaluating test also fits a temperature on val, unless it is known for these weights; evaluating val fits it on the
    same images. It goes into `calibration.json`; the other metrics are those without it.

    Args:
        folder: of the run.
        split: train, val or test.
        shards: folder or URL of the shards, if they moved since the run was trained.
        overlays: of the shards, if they moved since.
        device: to compute on.
        batch_size: images in each batch.
        tta: test-time augmentation; the logits are then logarithms of averaged probabilities.
        calibration: whether to fit a temperature.

    Raises:
        UserError: there is no trained run, its shards can't be opened or have no such split, or a file can't be
            written.
    """
    run = read_run(folder)
    try:
        run.check_split(split)
        shard_set = run.open_shards(shards, overlays)
    except UserError as error:
        raise UserError(f"{folder} can't be evaluated: {error}") from error
    where, weights = choose_device(device), weights_hash(folder, "best")
    predicted = partial(_predictions, folder, run, shard_set, device=where, batch_size=batch_size, tta=tta)
    found = predicted(split)
    scores = compute_metrics(found.logits, found.labels, run.classes)
    fitted = None
    if calibration and split in ("test", "val") and len(shard_set.split("val")):
        fitted = _temperature(folder, found if split == "val" else None, predicted, tta, weights)
    metrics = write_evaluation(
        folder,
        split,
        scores,
        found,
        tta=tta,
        weights=weights,
        protocol=run.protocol,
        calibrated=_calibrated(found, fitted),
    )
    files, plots = RunFolder(folder), _write_plots(folder, split, run, shard_set, found)
    calibrations = () if fitted is None else (files.calibration(tta),)
    return Evaluation(metrics=metrics, files=(files.evaluation(split), files.predictions(split), *calibrations, *plots))


def _write_plots(folder: Path, split: str, run: Run, shards: ShardSet, found: Predictions) -> list[Path]:
    """Write the PNGs of an evaluation and return their paths."""
    files = RunFolder(folder)
    counts = {name: entry.class_counts for name, entry in shards.manifest.splits.items()}
    cells = confusion_cells(found.logits, found.labels)
    group = -(-len(run.classes) // _MOST_CELLS)
    shares = normalized(confusion(cells, len(run.classes), group))
    plots = {
        files.confusion(split): png(plot_confusion(shares, run.classes), tight=True),
        files.curves: png(run_curves(read_metrics(folder), len(run.classes), run.recipe.loss_name)),
        files.class_counts: png(plot_class_counts(counts, run.classes)),
    }
    for path, content in plots.items():
        with writing(path, "then evaluate again"):
            write_atomically(path, content)
    return list(plots)


def _temperature(
    folder: Path, val: Predictions | None, predicted: Callable[[str], Predictions], tta: Tta, weights: str
) -> Temperature | None:
    """The temperature for these weights: the stored one, or one that is fitted and stored now.

    Args:
        folder: of the run.
        val: predictions of val, if they are known.
        predicted: predicts a split.
        tta: test-time augmentation of the predictions.
        weights: hash of the weights.

    Returns:
        None if the logits are not finite.
    """
    if val is None:
        if (stored := read_temperature(folder, weights=weights, tta=tta)) is not None:
            return stored
        earlier = read_evaluation(folder, "val")
        fits = earlier is not None and earlier.tta == tta
        val = read_predictions(folder, "val") if fits else predicted("val")
    temperature = fit_temperature(val.logits, val.labels)
    if temperature is None:
        warn("the logits of split val are not finite, so there is no temperature for --calibrated")
        return None
    fitted = Temperature(temperature=temperature, split="val", samples=val.labels.size, tta=tta, weights=weights)
    write_temperature(folder, fitted)
    return fitted


def _calibrated(found: Predictions, fitted: Temperature | None) -> CalibratedScores | None:
    """Scores of predictions whose logits are divided by a temperature, if there is one."""
    if fitted is None:
        return None
    return CalibratedScores(
        temperature=fitted.temperature,
        fitted_on=fitted.split,
        loss=cross_entropy(found.logits, found.labels, fitted.temperature),
        ece=calibration_of(found.logits, found.labels, temperature=fitted.temperature).ece,
    )


def _predictions(
    folder: Path, run: Run, shards: ShardSet, split: str, *, device: torch.device, batch_size: int, tta: Tta
) -> Predictions:
    loader = ShardLoader(shards, split=split, batch_size=batch_size, device=device, shuffle=False, drop_last=False)
    model = load_model(folder, run)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    of_views = []
    samples = len(loader.split)
    labels, ids = np.empty(samples, np.int64), np.empty(samples, np.int64)
    for preset in views(tta, run.eval_spec):
        batches = predict(model, loader, preset, inference_precision(run.recipe.amp, device))
        # The results stay on the device until the end, so that no batch waits for the one before it.
        predicted = deque(bar(batches, total=len(loader), desc=f"evaluate {split}", unit=" batches"))
        logits = np.empty((samples, len(run.classes)), np.float32)
        first = 0
        while predicted:  # each batch is let go of when it is copied
            batch, of_batch, ids_of_batch = predicted.popleft()
            rows = slice(first, first := first + len(batch))
            logits[rows], labels[rows], ids[rows] = batch.cpu(), of_batch.cpu(), ids_of_batch.cpu()
        of_views.append(logits)
    return Predictions(ids, labels, averaged(of_views))


def run_curves(rows: Sequence[EpochRow], classes: int, loss_name: str) -> Figure:
    """Losses and accuracies of a run over its epochs.

    Args:
        rows: of the finished epochs, at least one.
        classes: number of classes.
        loss_name: title for the axis of the losses, `Recipe.loss_name`.
    """
    accuracies = {
        "training top-1": [row.train_top1 for row in rows],
        "validation top-1": [row.val_top1 for row in rows],
    }
    if tells_top5(classes):
        accuracies["validation top-5"] = [row.val_top5 for row in rows]
    losses = {"training": [row.train_loss for row in rows], "validation": [row.val_loss for row in rows]}
    return plot_curves([row.epoch for row in rows], losses, accuracies, loss_name)


def check_same_shards(folders: Sequence[Path]) -> None:
    """Refuse runs whose probabilities can't be averaged, since their samples or classes differ.

    Raises:
        UserError: they were trained on different shards.
    """
    if len({(run.data, run.classes) for run in map(read_run, folders)}) > 1:
        raise UserError("runs that were trained on different shards can't be averaged; give runs of the same --shards")


def evaluate_ensemble(folders: Sequence[Path], *, split: str = "test") -> Evaluation[EnsembleMetrics]:
    """The average of several runs' probabilities, from the predictions that `evaluate` wrote; without temperatures.

    Writes `{split}_ensemble_metrics.json` and `ensemble_predictions.npz` into the first run; for a split other than
    test, the second name has the prefix `{split}_`.

    Args:
        folders: runs that were evaluated on the same split of the same shards.
        split: train, val or test.

    Raises:
        UserError: the runs have different shards, one was not evaluated, or a file can't be written.
    """
    check_same_shards(folders)
    classes = read_run(folders[0]).classes
    members = []
    for folder in folders:
        single = read_evaluation(folder, split)
        if single is None:
            raise UserError(f"{folder} was not evaluated on {split} since it was trained; do so first")
        members.append(as_member(str(folder), single))
    stored = [read_predictions(folder, split) for folder in folders]
    average = Predictions(stored[0].ids, stored[0].labels, averaged([own.logits for own in stored]))
    scores = compute_metrics(average.logits, average.labels, classes)
    metrics = write_ensemble(folders[0], split, scores, average, members)
    files = RunFolder(folders[0])
    written = files.evaluation(split, ensemble=True), files.predictions(split, ensemble=True)
    return Evaluation(metrics=metrics, files=written)
