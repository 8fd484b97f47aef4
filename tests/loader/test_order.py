"""The order of an epoch: each sample once, the same whatever the number of ranks, and pinned for a seed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.loader.order import EpochOrder, permutation, rank_slice, steps_per_epoch

shard_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)
windows = st.none() | st.integers(1, 200)


def order_of(sizes: list[int], epoch: int = 0, window: int | None = None, seed: int = 3) -> EpochOrder:
    return EpochOrder(np.array(sizes), seed=seed, epoch=epoch, shuffle=True, window=window)


def whole(order: EpochOrder) -> list[int]:
    ids: list[int] = order.ids(0, order.samples).tolist()
    return ids


@given(
    sizes=shard_sizes,
    window=windows,
    per_rank=st.integers(1, 20),
    world=st.sampled_from([1, 2, 3, 5, 8]),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_ranks_together_visit_each_sample_once(
    sizes: list[int], window: int | None, per_rank: int, world: int, epoch: int, drop_last: bool
) -> None:
    samples, batch = sum(sizes), per_rank * world
    order = order_of(sizes, epoch, window)
    visited: list[int] = []
    for step in range(steps_per_epoch(samples, batch, drop_last=drop_last)):
        for rank in range(world):
            positions = rank_slice(samples, batch, step, rank, world)
            visited += order.ids(positions.start, positions.stop).tolist()
    expected = whole(order_of(sizes, epoch, window))
    assert sorted(expected) == list(range(samples))
    # With drop_last only the end of the order, which does not fill a global batch, is missing.
    assert visited == (expected[: samples - samples % batch] if drop_last else expected)


@given(sizes=shard_sizes, window=windows, data=st.data())
def test_any_slice_is_that_slice_of_the_whole(sizes: list[int], window: int | None, data: st.DataObject) -> None:
    order, expected = order_of(sizes, 1, window), whole(order_of(sizes, 1, window))
    for _ in range(4):
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        assert order.ids(start, stop).tolist() == expected[start:stop]


@given(sizes=shard_sizes, window=st.integers(1, 200))
def test_a_window_needs_few_shards(sizes: list[int], window: int) -> None:
    order = order_of(sizes, window=window)
    first_ids = np.cumsum(sizes) - sizes
    seen: list[int] = []
    start = 0
    for number in range(order.windows):
        shards = order.shards_of(number)
        count = sum(sizes[shard] for shard in shards)
        assert count <= window or len(shards) == 1
        ids = order.ids(start, start + count)
        assert set(np.searchsorted(first_ids, ids, side="right") - 1) == set(shards.tolist())
        assert order.window_at(start) == order.window_at(start + count - 1) == number
        seen += shards.tolist()
        start += count
    assert sorted(seen) == list(range(len(sizes)))


def test_a_billion_samples_take_the_memory_of_a_window() -> None:
    sizes = np.full(20_000, 50_000)
    tracemalloc.start()
    order = EpochOrder(sizes, seed=0, epoch=5, shuffle=True, window=200_000)
    ids = order.ids(999_999_000, 1_000_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert order.samples == 1_000_000_000
    assert len(np.unique(ids)) == 1000
    assert 0 <= ids.min() <= ids.max() < order.samples
    assert peak < 20e6  # a list of all would take 8,000 MB


@given(st.integers(1, 200), st.integers(1, 40), st.sampled_from([1, 2, 3, 5]))
def test_a_last_batch_is_shared_evenly(samples: int, batch: int, world: int) -> None:
    step = steps_per_epoch(samples, batch * world, drop_last=False) - 1
    slices = [rank_slice(samples, batch * world, step, rank, world) for rank in range(world)]
    sizes = [one.stop - one.start for one in slices]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch


def test_the_golden_orders() -> None:
    assert whole(order_of([5, 4, 3], 0, seed=7)) == [10, 5, 11, 9, 1, 2, 7, 6, 4, 0, 8, 3]
    assert whole(order_of([5, 4, 3], 1, seed=7)) == [9, 8, 2, 6, 7, 11, 4, 1, 5, 0, 10, 3]
    assert whole(order_of([5, 4, 3], 0, window=7, seed=7)) == [1, 2, 4, 0, 3, 9, 5, 10, 8, 6, 7, 11]


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}])
def test_seed_and_epoch_change_the_order(other: dict[str, int], window: int | None) -> None:
    sizes = [100] * 10
    first, second = whole(order_of(sizes, 0, window, seed=0)), whole(order_of(sizes, window=window, **other))
    # Two independent permutations agree at one position on average.
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 8


def test_permutations_are_fair() -> None:
    """Each of the 24 orders of 4 things comes as often as the others: chi-square, 23 degrees of freedom, p = 1e-6."""
    counts = np.zeros((4, 4, 4), np.int64)
    for epoch in range(6000):
        counts[tuple(permutation(4, 0, epoch, 1)[:3])] += 1
    found = counts[counts > 0]
    assert found.size == 24
    assert ((found - 250) ** 2 / 250).sum() < 71


def test_without_shuffling_the_order_is_that_of_the_shards() -> None:
    order = EpochOrder(np.array([2, 3]), seed=0, epoch=3, shuffle=False, window=None)
    assert order.ids(0, 5).tolist() == [0, 1, 2, 3, 4]
    assert [order.shards_of(window).tolist() for window in range(order.windows)] == [[0], [1]]
