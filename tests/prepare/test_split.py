"""Every sample in exactly one split, every class within one image of its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.prepare.split import check_fractions, stratified_split, stratified_subset

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def labels_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@given(st.lists(st.integers(10, 60), min_size=1, max_size=12), st.integers(0, 5))
def test_each_sample_once_and_each_class_within_one(counts: list[int], seed: int) -> None:
    labels = labels_of(counts)
    parts = stratified_split(labels, FRACTIONS, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(labels.size))
    for share, part in zip(FRACTIONS.values(), parts.values(), strict=True):
        got = np.bincount(labels[part], minlength=len(counts))
        assert np.abs(got - share * np.array(counts)).max() < 1.0 + 1e-9
        assert got.min() >= 1


def test_whole_multiples_are_split_exactly() -> None:
    parts = stratified_split(labels_of([100] * 10), FRACTIONS, 0)
    counts = {name: np.bincount(labels_of([100] * 10)[part]).tolist() for name, part in parts.items()}
    assert counts == {"train": [80] * 10, "val": [10] * 10, "test": [10] * 10}


def test_the_seed_decides() -> None:
    labels = labels_of([50, 50])
    first, again, other = (stratified_split(labels, FRACTIONS, seed)["train"] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert set(first.tolist()) != set(other.tolist())


def test_thirds_of_many_classes() -> None:
    parts = stratified_split(labels_of([3] * 300), dict.fromkeys(FRACTIONS, 1 / 3), 0)
    assert {name: part.size for name, part in parts.items()} == dict.fromkeys(FRACTIONS, 300)


def test_two_splits() -> None:
    parts = stratified_split(labels_of([5, 5]), {"train": 0.8, "val": 0.2}, 0)
    assert {name: part.size for name, part in parts.items()} == {"train": 8, "val": 2}


@pytest.mark.parametrize("wrong", [(0.8, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_wrong_fractions_are_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="--fractions"):
        check_fractions(wrong)


@given(st.integers(3, 90))
def test_a_subset_keeps_every_class_in_proportion(limit: int) -> None:
    labels = labels_of([60, 30])
    kept = stratified_subset(labels, limit, 0)
    assert kept.size == min(limit, 90)
    assert np.unique(kept).size == kept.size
    assert abs(np.bincount(labels[kept], minlength=2)[0] - kept.size * 2 / 3) <= 1
