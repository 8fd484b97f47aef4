"""Sampling by repeat factors: the expected copies come, in an order with all properties of the plain one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from food101_fast.loader import Batch, ShardLoader
from food101_fast.loader.order import EpochOrder, rank_slice, steps_per_epoch
from food101_fast.loader.repeat import Repeats, expected_copies, repeat_factors
from food101_fast.loader.residence import Choice
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.transforms import train_preset
from tests.conftest import write_folder

class_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)
thresholds = st.floats(0.01, 1.0)
windows = st.none() | st.integers(1, 100)


def labels_of(sizes: list[int]) -> NDArray[np.int64]:
    """Labels of classes of these sizes, mixed."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.asarray(labels[np.random.default_rng(1).permutation(labels.size)])


def shards_of(samples: int) -> NDArray[np.int64]:
    """Shards of uneven sizes with so many samples in all."""
    cuts = sorted({0, samples, *range(7, samples, 16)})
    return np.diff(np.array(cuts))


def order_of(repeats: Repeats, epoch: int, window: int | None = None, seed: int = 3) -> EpochOrder:
    shards = shards_of(repeats.copies.size)
    return EpochOrder(shards, seed=seed, epoch=epoch, shuffle=True, window=window, repeats=repeats)


def test_the_factors_are_those_of_the_paper() -> None:
    factors = repeat_factors(np.array([64, 16, 4, 16]), 0.16)
    assert factors.tolist() == pytest.approx([1, 1, 2, 1])
    assert repeat_factors(np.array([50, 50]), 0.5).tolist() == [1, 1]


@given(sizes=class_sizes, threshold=thresholds)
def test_expected_copies_are_in_the_ratio_of_the_factors_and_add_up_to_the_samples(
    sizes: list[int], threshold: float
) -> None:
    labels = labels_of(sizes)
    repeats = expected_copies(labels, threshold)
    assert int(repeats.copies.sum()) + repeats.missing == labels.size << repeats.bits
    assert 0 <= repeats.missing < 1 << (repeats.bits - 20)
    factors = repeat_factors(np.bincount(labels), threshold)[labels]
    expected = factors / factors.mean()
    assert repeats.copies / 2.0**repeats.bits == pytest.approx(expected, rel=1e-9)


@given(
    sizes=class_sizes,
    threshold=thresholds,
    window=windows,
    per_rank=st.integers(1, 20),
    world=st.sampled_from([1, 2, 3, 5, 8]),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_ranks_together_visit_the_same_copies_each_once(
    sizes: list[int], threshold: float, window: int | None, per_rank: int, world: int, epoch: int, drop_last: bool
) -> None:
    repeats = expected_copies(labels_of(sizes), threshold)
    samples, batch = repeats.copies.size, per_rank * world
    order = order_of(repeats, epoch, window)
    visited: list[int] = []
    for step in range(steps_per_epoch(samples, batch, drop_last=drop_last)):
        for rank in range(world):
            positions = rank_slice(samples, batch, step, rank, world)
            visited += order.draws(positions.start, positions.stop).tolist()
    expected = order_of(repeats, epoch, window).draws(0, samples).tolist()
    assert len(expected) == samples
    assert visited == (expected[: samples - samples % batch] if drop_last else expected)
    assert order.ids(0, samples).tolist() == [draw % samples for draw in expected]


@given(sizes=class_sizes, threshold=thresholds, window=windows, epoch=st.integers(0, 3))
def test_a_sample_comes_as_often_as_expected_rounded_up_or_down(
    sizes: list[int], threshold: float, window: int | None, epoch: int
) -> None:
    repeats = expected_copies(labels_of(sizes), threshold)
    samples = repeats.copies.size
    draws = order_of(repeats, epoch, window).draws(0, samples)
    assert np.unique(draws).size == samples
    counts = np.bincount(draws % samples, minlength=samples)
    expected = repeats.copies / 2.0**repeats.bits
    assert np.all(counts >= np.floor(expected - 1e-6))
    assert np.all(counts <= np.ceil(expected + 1e-6))
    # The copies of a sample are numbered from 0 on.
    for sample in range(samples):
        assert sorted(draws[draws % samples == sample] // samples) == list(range(counts[sample]))


@given(sizes=class_sizes, threshold=thresholds, window=windows, data=st.data())
def test_any_slice_is_that_slice_of_the_whole(
    sizes: list[int], threshold: float, window: int | None, data: st.DataObject
) -> None:
    repeats = expected_copies(labels_of(sizes), threshold)
    samples = repeats.copies.size
    order, expected = order_of(repeats, 1, window), order_of(repeats, 1, window).draws(0, samples).tolist()
    for _ in range(4):
        start = data.draw(st.integers(0, samples))
        stop = data.draw(st.integers(start, samples))
        assert order.draws(start, stop).tolist() == expected[start:stop]


@given(sizes=class_sizes, threshold=thresholds, window=st.integers(1, 100))
def test_a_window_needs_only_its_own_shards(sizes: list[int], threshold: float, window: int) -> None:
    repeats = expected_copies(labels_of(sizes), threshold)
    samples = repeats.copies.size
    order = order_of(repeats, 2, window)
    first_ids = np.cumsum(shards_of(samples)) - shards_of(samples)
    ids = order.ids(0, samples)
    for position, sample in enumerate(ids.tolist()):
        shard = int(np.searchsorted(first_ids, sample, side="right")) - 1
        assert shard in order.shards_of(order.window_at(position))


@pytest.mark.parametrize("window", [None, 40])
def test_over_many_epochs_each_class_and_each_sample_has_its_share(window: int | None) -> None:
    """The number of copies of a sample is one of two neighbors, so its variance is known: bounds of 6 deviations."""
    sizes, epochs = [120, 40, 12, 3], 400
    labels = labels_of(sizes)
    repeats = expected_copies(labels, 0.25)
    samples = labels.size
    seen = np.zeros(samples)
    for epoch in range(epochs):
        seen += np.bincount(order_of(repeats, epoch, window, seed=0).ids(0, samples), minlength=samples)
    expected = repeats.copies / 2.0**repeats.bits
    fraction = expected % 1
    deviation = np.sqrt(epochs * fraction * (1 - fraction))
    assert np.all(np.abs(seen - epochs * expected) < 6 * deviation)
    assert np.any(np.abs(seen - epochs) > 6 * deviation)  # the test would notice plain epochs
    # Systematic sampling spreads the copies of a class, so the class varies less than its samples would alone.
    of_class, bound = np.bincount(labels, seen), np.bincount(labels, deviation**2)
    assert np.all(np.abs(of_class - epochs * np.bincount(labels, expected)) < 6 * np.sqrt(bound))


def test_the_golden_order() -> None:
    repeats = expected_copies(np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), 1.0)
    orders = [order_of(repeats, epoch, seed=7).draws(0, 10).tolist() for epoch in (0, 1)]
    assert orders == [[18, 8, 7, 0, 5, 19, 9, 2, 6, 3], [8, 6, 18, 19, 7, 9, 4, 5, 3, 0]]


def test_seed_and_epoch_change_copies_and_order() -> None:
    repeats = expected_copies(labels_of([300, 60, 20]), 1 / 3)
    samples = repeats.copies.size
    one = order_of(repeats, 0, seed=0).draws(0, samples)
    for other in (order_of(repeats, 1, seed=0), order_of(repeats, 0, seed=1)):
        draws = other.draws(0, samples)
        assert int((draws == one).sum()) < 10  # two independent orders agree at about one position
        assert set(draws.tolist()) != set(one.tolist())


@pytest.fixture(scope="module")
def long_tail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of shards with classes of 40, 12 and 8 images."""
    folder = write_folder(tmp_path_factory.mktemp("images") / "tail", {"ramen": 50, "pie": 15, "tacos": 10})
    out = tmp_path_factory.mktemp("shards") / "tail"
    prepare(PrepareSettings(source=f"folder:{folder}", out=out, size=32, samples_per_shard=9, workers=1))
    return out


def loader_of(shards: Path | ShardSet, **options: Any) -> ShardLoader:
    return ShardLoader(shards, **{"split": "train", "batch_size": 6, "repeat_threshold": 1 / 3, **options})


def assert_content(batch: Batch, shards: ShardSet) -> None:
    split = shards.split("train")
    labels = split.labels
    for image, label, sample in zip(batch.images, batch.labels.tolist(), batch.ids.tolist(), strict=True):
        assert torch.equal(image, torch.from_numpy(split[sample]).permute(2, 0, 1))
        assert label == labels[sample]
    assert torch.equal(batch.draws % len(split), batch.ids)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_global_batch_does_not_depend_on_the_ranks(long_tail: Path, world: int, window: int | None) -> None:
    shards = ShardSet.open(long_tail)
    alone = [batch.draws.tolist() for batch in loader_of(shards, window=window)]
    ranks = []
    for rank in range(world):
        loader = loader_of(shards, batch_size=6 // world, rank=rank, world_size=world, window=window)
        ranks.append(list(loader))
        for batch in ranks[-1]:
            assert_content(batch, shards)
    assert alone == [[draw for batch in step for draw in batch.draws.tolist()] for step in zip(*ranks, strict=True)]
    assert len(alone) == len(loader_of(shards, repeat_threshold=None))
    assert any(draw >= len(shards.split("train")) for step in alone for draw in step)


def test_resuming_after_every_step_gives_the_same_rest(long_tail: Path) -> None:
    loader = loader_of(long_tail)
    states, whole = [loader.state_dict()], []
    for batch in itertools.chain(loader, loader):
        whole.append(batch.draws.tolist())
        states.append(loader.state_dict())
    assert len(whole) == 2 * len(loader)
    for done, state in enumerate(states[:-1]):
        other = loader_of(long_tail, batch_size=3, rank=1, world_size=2)
        other.load_state_dict(state)
        # A state after the last batch of an epoch continues with nothing, and then with the next epoch.
        rest = [batch.draws.tolist() for batch in itertools.chain(other, *([other] if other.epoch == 0 else []))]
        assert rest[: len(whole) - done] == [draws[3:] for draws in whole[done:]]


def test_step_ids_are_sample_ids(long_tail: Path) -> None:
    loader = loader_of(long_tail)
    assert [loader.step_ids(0, step).tolist() for step in range(len(loader))] == [
        batch.ids.tolist() for batch in loader
    ]


def test_states_from_before_continue(long_tail: Path) -> None:
    loader = loader_of(long_tail, repeat_threshold=None)
    state = loader.state_dict()
    assert state.pop("repeat_threshold") is None
    loader.load_state_dict(state)


@pytest.mark.parametrize("residence", ["host", "device"])
def test_residence_changes_no_batch(
    long_tail: Path, residence: Literal["host", "device"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`device` as on a GPU, with the CPU as the device."""
    shards = ShardSet.open(long_tail)
    expected = [list(loader) for loader in [loader_of(shards)] for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(
            "food101_fast.loader.batches.choose_residence", lambda *_: Choice(residence=residence, reason="a test")
        )
        loader = loader_of(shards)
    for epoch in expected:
        for ours, theirs in zip(loader, epoch, strict=True):
            assert ours.draws.equal(theirs.draws)
            assert ours.ids.equal(theirs.ids)
            assert ours.labels.equal(theirs.labels)
            assert ours.images.equal(theirs.images)


def test_copies_are_augmented_differently(long_tail: Path) -> None:
    preset = train_preset("baseline", 32)
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in loader_of(long_tail):
        images = preset(batch.images, seed=0, epoch=0, ids=batch.draws)
        for sample, image in zip(batch.ids.tolist(), images, strict=True):
            seen.setdefault(sample, []).append(image)
    repeated = [images for images in seen.values() if len(images) > 1]
    assert len(repeated) > 3
    assert not any(torch.equal(*pair) for images in repeated for pair in itertools.combinations(images, 2))
