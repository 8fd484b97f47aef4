"""Numbers from logits and labels. Pure functions: everything can be computed again from `predictions.npz`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix


def ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of the true class among the scores, 0 for the best; of equal scores the lower class comes first.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        int64 (N,), from 0 to classes - 1.
    """
    own = logits[np.arange(labels.size), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > own) | ((logits == own) & earlier)
    return np.asarray(ahead.sum(axis=1), np.int64)


def confusion(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of (true class, predicted class), int64 (classes, classes)."""
    classes = logits.shape[1]
    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(classes))
    return np.array(counts, np.int64)


def normalised(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows of a confusion matrix as shares that add up to 1; a class without samples has a row of zeros."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = counts / np.maximum(totals, 1)
    return shares


def compute_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any]:
    """What goes into `test_metrics.json`.

    Args:
        logits: float32 (N, classes).
        labels: int64 (N,).
        classes: class names.

    Returns:
        `samples`; `loss`, the mean cross-entropy in nats; `top1` and `top5` between 0 and 1; `per_class`, for each
        class its `samples` and `accuracy` (None for a class without samples).
    """
    place = ranks(logits, labels)
    counts = confusion(logits, labels)
    totals = counts.sum(axis=1)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_likelihood = shifted[np.arange(labels.size), labels] - np.log(np.exp(shifted).sum(axis=1))
    return {
        "samples": int(labels.size),
        "loss": float(-log_likelihood.mean()),
        "top1": float((place < 1).mean()),
        "top5": float((place < 5).mean()),
        "per_class": {
            name: {
                "samples": int(totals[label]),
                "accuracy": float(counts[label, label] / totals[label]) if totals[label] else None,
            }
            for label, name in enumerate(classes)
        },
    }
