"""The order of an epoch: each sample once, the same whatever the number of ranks, pinned for a seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.loader.order import epoch_order, rank_slice, steps_per_epoch


@given(
    samples=st.integers(1, 300),
    per_rank=st.integers(1, 20),
    world=st.sampled_from([1, 2, 3, 5]),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_ranks_together_visit_each_sample_once(
    samples: int, per_rank: int, world: int, epoch: int, drop_last: bool
) -> None:
    batch = per_rank * world
    order = epoch_order(samples, seed=3, epoch=epoch, shuffle=True)
    visited = [
        order[rank_slice(samples, batch, step, rank, world)]
        for step in range(steps_per_epoch(samples, batch, drop_last=drop_last))
        for rank in range(world)
    ]
    together = np.concatenate([np.empty(0, np.int64), *visited])
    expected = order[: samples // batch * batch] if drop_last else order
    assert together.tolist() == expected.tolist()
    assert sorted(order.tolist()) == list(range(samples))


@given(st.integers(1, 200), st.integers(1, 40), st.sampled_from([1, 2, 3, 5]))
def test_a_last_batch_is_shared_evenly(samples: int, batch: int, world: int) -> None:
    step = steps_per_epoch(samples, batch * world, drop_last=False) - 1
    slices = [rank_slice(samples, batch * world, step, rank, world) for rank in range(world)]
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch


def test_the_golden_order() -> None:
    assert epoch_order(12, seed=7, epoch=0, shuffle=True).tolist() == [4, 6, 10, 0, 1, 3, 8, 7, 2, 5, 9, 11]
    assert epoch_order(12, seed=7, epoch=1, shuffle=True).tolist() == [7, 10, 6, 11, 0, 8, 9, 1, 3, 4, 2, 5]


@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}])
def test_seed_and_epoch_change_the_order(other: dict[str, int]) -> None:
    first = epoch_order(1000, seed=0, epoch=0, shuffle=True)
    second = epoch_order(1000, shuffle=True, **other)
    # Two independent permutations agree in one place on average.
    assert (first == second).sum() < 8


def test_without_shuffling_the_order_is_that_of_the_shards() -> None:
    assert epoch_order(5, seed=0, epoch=3, shuffle=False).tolist() == [0, 1, 2, 3, 4]
