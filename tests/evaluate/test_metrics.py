"""Metrics against scikit-learn and their definitions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from food101_fast.evaluate.metrics import (
    accuracy_interval,
    calibration,
    compute_metrics,
    confused_pairs,
    confusion,
    confusion_cells,
    normalized,
    ranks,
)
from food101_fast.runs.metrics import ClassMetrics


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
    logits = (logits.argsort(axis=1).argsort(axis=1) / 3).astype(np.float32)
    classes = np.arange(logits.shape[1])
    got = compute_metrics(logits, labels, tuple(map(str, classes)))
    assert got.top1 == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=classes) if classes.size > 5 else 1.0
    assert got.top5 == pytest.approx(top5)
    likelihood = np.exp(logits.astype(np.float64))
    likelihood /= likelihood.sum(axis=1, keepdims=True)
    assert got.loss == pytest.approx(log_loss(labels, likelihood, labels=classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about predicted classes without samples
        assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


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
    counts = confusion(confusion_cells(logits, labels), logits.shape[1])
    totals = np.bincount(labels, minlength=logits.shape[1])
    assert counts.sum(axis=1).tolist() == totals.tolist()
    assert np.allclose(normalized(counts).sum(axis=1), totals > 0)


@given(predictions())
def test_scores_of_classes_follow_their_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    predicted = logits.argmax(axis=1)
    metrics = compute_metrics(logits, labels, tuple(map(str, range(logits.shape[1]))))
    defined = []
    for label, entry in enumerate(metrics.per_class.values()):
        own, said = labels == label, predicted == label
        hits = int((own & said).sum())
        assert entry.support == own.sum()
        assert entry.recall == (pytest.approx(hits / own.sum()) if own.any() else None)
        assert entry.precision == (pytest.approx(hits / said.sum()) if said.any() else None)
        f1 = 2 * hits / (own.sum() + said.sum()) if own.any() else None
        assert entry.f1 == (None if f1 is None else pytest.approx(f1))
        defined += [] if f1 is None else [f1]
    assert metrics.macro_f1 == pytest.approx(np.mean(defined))


@given(predictions())
def test_confused_pairs_are_the_mistakes(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    cells = confusion_cells(logits, labels)
    counts = confusion(cells, logits.shape[1])
    pairs = confused_pairs(cells, most=counts.size)
    assert sum(count for *_, count in pairs) == (logits.argmax(axis=1) != labels).sum()
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    for true, predicted, count in pairs:
        assert true != predicted
        assert counts[true, predicted] == count > 0
    assert confused_pairs(cells, most=1) == pairs[:1]


@given(predictions(), st.integers(1, 20))
def test_calibration_is_its_definition(case: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    logits, labels = case
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    confidence, hits = shares.max(axis=1), logits.argmax(axis=1) == labels
    expected, counts = 0.0, []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        # A confidence at an edge may be rounded to either side.
        assume(not np.isclose(confidence, high, atol=1e-12, rtol=0).any() or high == 1.0)
        inside = (confidence > low) & (confidence <= high + (1e-9 if high == 1.0 else 0.0))
        counts.append(int(inside.sum()))
        if inside.any():
            expected += inside.sum() / labels.size * abs(hits[inside].mean() - confidence[inside].mean())
    got = calibration(logits, labels, bins)
    assert got.count == tuple(counts)
    assert got.ece == pytest.approx(expected, abs=1e-9)


def test_a_perfect_and_sure_model_is_calibrated() -> None:
    logits = np.where(np.eye(4) > 0, 40.0, 0.0).astype(np.float32)
    labels = np.arange(4)
    assert calibration(logits, labels).ece == pytest.approx(0.0, abs=1e-9)
    assert calibration(logits, (labels + 1) % 4).ece == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("hits", "samples"), [(0, 5), (5, 5), (37, 50), (900, 1200)])
def test_the_interval_is_the_bootstraps(hits: int, samples: int) -> None:
    """Against resampling itself, 20,000 times."""
    outcome = np.arange(samples) < hits
    resampled = np.random.default_rng(0).choice(outcome, (20_000, samples)).mean(axis=1)
    low, high = accuracy_interval(hits / samples, samples)
    assert low <= hits / samples <= high
    assert (low, high) == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=1.01 / samples)


def test_one_class_alone_is_defined() -> None:
    metrics = compute_metrics(np.zeros((3, 1), np.float32), np.zeros(3, np.int64), ("all",))
    assert (metrics.top1, metrics.top5, metrics.loss) == (1.0, 1.0, 0.0)
    assert metrics.confused == ()
    assert metrics.per_class == {"all": ClassMetrics(support=3, precision=1.0, recall=1.0, f1=1.0)}
