"""Numbers from logits and labels. Pure functions: everything can be computed again from `predictions.npz`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import binom
from sklearn.metrics import precision_recall_fscore_support

from food101_fast.runs.evaluation import row_blocks
from food101_fast.runs.metrics import Calibration, ClassMetrics, ConfusedPair, Scores

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

CALIBRATION_BINS = 15
_PAIRS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionCells:
    """The cells of a confusion matrix that are not 0: a whole one of 10,000 classes would take 800 MB."""

    true: NDArray[np.int64]
    """(cells,) true classes, ascending."""
    predicted: NDArray[np.int64]
    """(cells,) what they were taken for, ascending for each true class."""
    count: NDArray[np.int64]
    """(cells,) samples."""


def ranks(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Rank of the true class among the scores, 0 for the highest; of equal scores the lower class comes first.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        int64 (N,), from 0 to classes - 1.
    """
    found = np.empty(labels.size, np.int64)
    for rows in row_blocks(logits):
        block, of_rows = logits[rows], labels[rows]
        own = block[np.arange(of_rows.size), of_rows][:, None]
        earlier = np.arange(logits.shape[1]) < of_rows[:, None]
        found[rows] = ((block > own) | ((block == own) & earlier)).sum(axis=1)
    return found


def confusion_cells(logits: Logits, labels: Labels) -> ConfusionCells:
    """How often which class was taken for which one."""
    classes = logits.shape[1]
    codes, count = np.unique(labels * classes + logits.argmax(axis=1), return_counts=True)
    return ConfusionCells(true=codes // classes, predicted=codes % classes, count=count.astype(np.int64))


def confusion(cells: ConfusionCells, classes: int, group: int = 1) -> NDArray[np.int64]:
    """Counts of (true class, predicted class), int64 (groups, groups).

    Args:
        cells: of the matrix.
        classes: number of classes.
        group: neighboring classes that are counted together.
    """
    groups = -(-classes // group)
    counts = np.zeros((groups, groups), np.int64)
    np.add.at(counts, (cells.true // group, cells.predicted // group), cells.count)
    return counts


def normalized(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of a confusion matrix as shares that add up to 1, (classes, classes); zeros for a class without samples."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = counts / np.maximum(totals, 1)
    return shares


def confused_pairs(cells: ConfusionCells, most: int = _PAIRS) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: (true class, predicted class, count), the most frequent first; ties by class."""
    wrong = np.flatnonzero(cells.true != cells.predicted)
    order = wrong[np.argsort(-cells.count[wrong], kind="stable")[:most]]
    columns = (cells.true[order], cells.predicted[order], cells.count[order])
    return [(true, predicted, count) for true, predicted, count in zip(*(c.tolist() for c in columns), strict=True)]


def cross_entropy(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean cross-entropy in nats of logits that are divided by a temperature, in float64.

    Args:
        logits: (N, classes).
        labels: (N,).
        temperature: above 0.
    """
    log_likelihood = np.empty(labels.size)
    for rows in row_blocks(logits):
        of_rows = log_softmax(logits[rows].astype(np.float64) / temperature, axis=1)
        log_likelihood[rows] = of_rows[np.arange(len(of_rows)), labels[rows]]
    return float(-log_likelihood.mean())


def calibration(logits: Logits, labels: Labels, bins: int = CALIBRATION_BINS, temperature: float = 1.0) -> Calibration:
    """How far confidence, the largest probability, is from accuracy.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: bins of equal width, each open at its
    lower end; the expected calibration error is the mean of |accuracy - confidence| over the samples' bins.

    Args:
        logits: (N, classes).
        labels: (N,).
        bins: how many.
        temperature: that the logits are divided by.
    """
    confidence = np.empty(labels.size)
    for rows in row_blocks(logits):
        confidence[rows] = softmax(logits[rows].astype(np.float64) / temperature, axis=1).max(axis=1)
    hits = logits.argmax(axis=1) == labels
    bin_index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_index, minlength=bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(bin_index, confidence, bins) / filled
    accuracy = np.bincount(bin_index, hits, bins) / filled
    return Calibration(
        ece=float((count * np.abs(accuracy - mean_confidence)).sum() / labels.size),
        count=tuple(count.tolist()),
        confidence=tuple(float(x) if n else None for x, n in zip(mean_confidence, count, strict=True)),
        accuracy=tuple(float(x) if n else None for x, n in zip(accuracy, count, strict=True)),
    )


def accuracy_interval(accuracy: float, samples: int, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap percentile interval of an accuracy.

    Resampling hits and misses with replacement draws their number from a binomial distribution, so the interval that
    infinitely many resamples would give is that distribution's quantiles.
    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7 (1979).
    """
    tail = (1 - level) / 2
    low, high = binom.ppf([tail, 1 - tail], samples, accuracy)
    return max(float(low), 0.0) / samples, float(high) / samples


def compute_metrics(logits: Logits, labels: Labels, classes: tuple[str, ...]) -> Scores:
    """All scores of a model on a split.

    Args:
        logits: (N, classes).
        labels: (N,).
        classes: class names.
    """
    rank = ranks(logits, labels)
    support = np.bincount(labels, minlength=len(classes))
    top1 = float((rank < 1).mean())
    per_class = _per_class(logits, labels, classes)
    f1s = [entry.f1 for entry in per_class.values() if entry.f1 is not None]
    return Scores(
        samples=int(labels.size),
        loss=cross_entropy(logits, labels),
        top1=top1,
        top5=float((rank < 5).mean()),
        top1_interval=accuracy_interval(top1, labels.size),
        macro_f1=float(np.mean(f1s)),
        calibration=calibration(logits, labels),
        confused=tuple(
            ConfusedPair(
                true=classes[true],
                predicted=classes[predicted],
                count=count,
                share=count / int(support[true]),
            )
            for true, predicted, count in confused_pairs(confusion_cells(logits, labels))
        ),
        per_class=per_class,
    )


def _per_class(logits: Logits, labels: Labels, classes: tuple[str, ...]) -> dict[str, ClassMetrics]:
    scores = precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=np.arange(len(classes)), zero_division=np.nan
    )
    return {
        name: ClassMetrics(
            support=int(support),
            precision=_defined(precision),
            recall=_defined(recall) if support else None,
            f1=_defined(f1) if support else None,
        )
        for name, precision, recall, f1, support in zip(classes, *scores, strict=True)
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
