"""Numbers from logits and labels. Pure functions: everything can be computed again from `predictions.npz`."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from food101_fast.runs.metrics import Calibration, ClassMetrics, ConfusedPair, Scores

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

CALIBRATION_BINS = 15
_PAIRS = 20


def ranks(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Rank of the true class among the scores, 0 for the highest; of equal scores the lower class comes first.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        int64 (N,), from 0 to classes - 1.
    """
    own = logits[np.arange(labels.size), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    better = (logits > own) | ((logits == own) & earlier)
    return np.asarray(better.sum(axis=1), np.int64)


def confusion(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """Counts of (true class, predicted class), int64 (classes, classes)."""
    classes = logits.shape[1]
    with warnings.catch_warnings():
        # With one class scikit-learn asks for the labels even where it was given them.
        warnings.filterwarnings("ignore", "A single label was found", UserWarning)
        counts = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(classes))
    return np.array(counts, np.int64)


def normalized(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of a confusion matrix as shares that add up to 1, (classes, classes); zeros for a class without samples."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = counts / np.maximum(totals, 1)
    return shares


def confused_pairs(counts: NDArray[np.int64], most: int = _PAIRS) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: (true class, predicted class, count), the most frequent first; ties by class."""
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(int(true), int(predicted), int(mistakes[true, predicted])) for true, predicted in pairs
            if mistakes[true, predicted]]  # fmt: skip


def calibration(logits: Logits, labels: Labels, bins: int = CALIBRATION_BINS) -> Calibration:
    """How far confidence, the largest probability, is from accuracy.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: bins of equal width, each open at its
    lower end; the expected calibration error is the mean of |accuracy - confidence| over the samples' bins.

    Args:
        logits: (N, classes).
        labels: (N,).
        bins: how many.
    """
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
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
    counts = confusion(logits, labels)
    top1 = float((rank < 1).mean())
    log_likelihood = log_softmax(logits.astype(np.float64), axis=1)[np.arange(labels.size), labels]
    per_class = _per_class(logits, labels, classes)
    f1s = [entry.f1 for entry in per_class.values() if entry.f1 is not None]
    return Scores(
        samples=int(labels.size),
        loss=float(-log_likelihood.mean()),
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
                share=count / int(counts[true].sum()),
            )
            for true, predicted, count in confused_pairs(counts)
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
