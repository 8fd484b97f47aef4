"""Metrics against scikit-learn and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from food101_fast.evaluate.metrics import compute_metrics, confusion, normalised, ranks


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(3, 12))
    logits = draw(hnp.arrays(np.float32, (samples, classes), elements=st.floats(-8, 8, width=16)))
    labels = draw(hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))
    return logits, labels


@given(predictions())
def test_metrics_equal_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    # Scores without ties: scikit-learn and we may order equal scores differently.
    logits = logits.argsort(axis=1).argsort(axis=1).astype(np.float32) / 3
    classes = np.arange(logits.shape[1])
    got = compute_metrics(logits, labels, tuple(map(str, classes)))
    assert got["top1"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=classes) if classes.size > 5 else 1.0
    assert got["top5"] == pytest.approx(top5)
    likelihood = np.exp(logits.astype(np.float64))
    likelihood /= likelihood.sum(axis=1, keepdims=True)
    assert got["loss"] == pytest.approx(log_loss(labels, likelihood, labels=classes))


@given(predictions())
def test_ranks_follow_a_stable_sort(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    order = np.argsort(-logits, axis=1, kind="stable")
    assert ranks(logits, labels).tolist() == [
        row.tolist().index(label) for row, label in zip(order, labels, strict=True)
    ]


@given(predictions())
def test_confusion_counts_every_sample_in_its_row(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    counts = confusion(logits, labels)
    totals = np.bincount(labels, minlength=logits.shape[1])
    assert counts.sum(axis=1).tolist() == totals.tolist()
    assert np.allclose(normalised(counts).sum(axis=1), totals > 0)
    metrics = compute_metrics(logits, labels, tuple(map(str, range(logits.shape[1]))))
    for label, entry in enumerate(metrics["per_class"].values()):
        assert entry["samples"] == totals[label]
        assert (entry["accuracy"] is None) == (totals[label] == 0)
        if totals[label]:
            assert entry["accuracy"] == pytest.approx((logits.argmax(1) == label)[labels == label].mean())
