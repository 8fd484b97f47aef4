"""Batches contain what the shards contain, each sample once; no buffer is overwritten while somebody reads it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.loader import Batch, LoaderConfig, Observer, ShardLoader
from food101_fast.shards import ShardSet


def loader_of(shards: ShardSet, **options: Any) -> ShardLoader:
    return ShardLoader(shards, **{"split": "train", "batch_size": 8, **options})


def assert_content(batch: Batch, shards: ShardSet, split: str = "train") -> None:
    rows = shards.split(split)
    for image, label, sample in zip(batch.images, batch.labels.tolist(), batch.ids.tolist(), strict=True):
        assert torch.equal(image, torch.from_numpy(rows[sample]).permute(2, 0, 1))
        assert label == rows.labels[sample]


def test_a_batch_is_uint8_channels_last(tiny_shards: ShardSet) -> None:
    batch = next(iter(loader_of(tiny_shards)))
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.ids.dtype == torch.int64
    assert batch.labels.shape == batch.ids.shape == (8,)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_sample_once_over_all_ranks(tiny_shards: ShardSet, world: int, split: str) -> None:
    seen: list[int] = []
    for rank in range(world):
        loader = loader_of(
            tiny_shards,
            split=split,
            batch_size=3,
            rank=rank,
            world_size=world,
            drop_last=False,
            shuffle=split == "train",
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert_content(batch, tiny_shards, split)
            seen += batch.ids.tolist()
    assert sorted(seen) == list(range(len(tiny_shards.split(split))))


def test_the_global_batch_does_not_depend_on_the_ranks(tiny_shards: ShardSet) -> None:
    alone = [batch.ids.tolist() for batch in loader_of(tiny_shards, batch_size=12)]
    ranks = [
        [batch.ids.tolist() for batch in loader_of(tiny_shards, batch_size=4, rank=rank, world_size=3)]
        for rank in range(3)
    ]
    assert alone == [[*a, *b, *c] for a, b, c in zip(*ranks, strict=True)]


def test_epochs_differ_and_can_be_chosen(tiny_shards: ShardSet) -> None:
    loader = loader_of(tiny_shards, seed=5)
    first, second = ([batch.ids.tolist() for batch in loader] for _ in range(2))
    assert first != second
    loader.set_epoch(0)
    assert [batch.ids.tolist() for batch in loader] == first


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("prefetch", [1, 7])
def test_threads_and_prefetch_change_nothing(tiny_shards: ShardSet, threads: int, prefetch: int) -> None:
    reference = [batch.ids.tolist() for batch in loader_of(tiny_shards)]
    batches = list(loader_of(tiny_shards, threads=threads, prefetch=prefetch))
    assert [batch.ids.tolist() for batch in batches] == reference
    for batch in batches:
        assert_content(batch, tiny_shards)


@pytest.mark.parametrize(
    ("options", "cores", "threads"),
    [
        ({}, 4, [2, 1, 1]),
        ({"verify": "never"}, 4, [2, 1, 1]),
        ({"verify": "always"}, 4, [2, 2, 2]),
        ({}, 1, [1, 1, 1]),
        ({"threads": 1}, 4, [1, 1, 1]),
        ({"threads": 3}, 4, [3, 3, 3]),
        ({"rank": 0, "world_size": 4, "batch_size": 2}, 4, [2, 2, 2, 1]),  # a rank reads a quarter of each epoch
    ],
)
def test_a_second_thread_helps_while_rows_are_new(
    tiny_shards: ShardSet, options: dict[str, object], cores: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("food101_fast.loader.batches._usable_cores", lambda: cores)
    loader = loader_of(tiny_shards, **{"drop_last": False, **options})
    run, used = loader._pipeline.run, []

    def counted(ids: Iterable[NDArray[np.int64]], threads: int, observer: Observer | None) -> Iterator[Any]:
        used.append(threads)
        return run(ids, threads, observer)

    monkeypatch.setattr(loader._pipeline, "run", counted)
    for _ in threads:
        for batch in loader:
            assert_content(batch, tiny_shards)
    assert used == threads


def test_kept_batches_are_not_overwritten(tiny_shards: ShardSet) -> None:
    loader = loader_of(tiny_shards, batch_size=4, prefetch=1)
    kept = [batch for _ in range(3) for batch in loader]
    for batch in kept:
        assert_content(batch, tiny_shards)


def test_a_view_of_a_batch_keeps_its_buffer(tiny_shards: ShardSet) -> None:
    loader = loader_of(tiny_shards, batch_size=4, prefetch=1)
    kept = []
    for batch in loader:
        kept.append((batch.ids[2].item(), batch.images[2].numpy()))
        del batch
    for sample, pixels in kept:
        assert np.array_equal(pixels.transpose(1, 2, 0), tiny_shards.split("train")[int(sample)])


def test_buffers_are_used_again(tiny_shards: ShardSet) -> None:
    loader = loader_of(tiny_shards, batch_size=4, threads=1, prefetch=2)
    addresses = set()
    for _ in range(5):
        for batch in loader:
            addresses.add(batch.images.data_ptr())
            del batch
    assert len(addresses) <= 5
    assert 5 * len(loader) > 20


def test_no_thread_outlives_an_iteration(tiny_shards: ShardSet) -> None:
    before = threading.active_count()
    for _ in range(3):
        for _batch in loader_of(tiny_shards, batch_size=2):
            break
        del _batch
    assert len(list(loader_of(tiny_shards))) > 0
    assert threading.active_count() == before


@pytest.mark.parametrize("done", [0, 1, 3, 7])
def test_a_state_goes_on_where_it_was_taken(tiny_shards: ShardSet, done: int) -> None:
    whole = [batch.ids.tolist() for batch in loader_of(tiny_shards)]
    loader = loader_of(tiny_shards)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()
    batches.close()
    other = loader_of(tiny_shards, batch_size=4, rank=0, world_size=2)
    other.load_state_dict(state)
    assert [batch.ids.tolist() for batch in other] == [ids[:4] for ids in whole[done:]]
    assert other.epoch == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9}, "global_batch"),
        ({"seed": 1}, "seed"),
        ({"split": "val"}, "split"),
        ({"repeat_threshold": 0.5}, "repeat_threshold None and this loader has 0.5"),
    ],
)
def test_a_state_of_another_order_is_refused(tiny_shards: ShardSet, options: dict[str, object], message: str) -> None:
    state = loader_of(tiny_shards, batch_size=4).state_dict()
    with pytest.raises(UserError, match=f"saved state has {message}"):
        loader_of(tiny_shards, **{"batch_size": 4, **options}).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": -1}, "saved state is damaged .*epoch -1 .*set_epoch"),
        ({"step": "2"}, "saved state is damaged .*set_epoch"),
        ({"step": 1000}, "saved state has step 1000, and an epoch has .*set_epoch"),
    ],
)
def test_a_damaged_state_is_refused(tiny_shards: ShardSet, change: dict[str, object], message: str) -> None:
    loader = loader_of(tiny_shards)
    with pytest.raises(UserError, match=message):
        loader.load_state_dict(loader.state_dict() | change)
    with pytest.raises(UserError, match=r"saved state is damaged .*missing required field"):
        loader.load_state_dict({})


def test_a_state_is_plain_numbers_and_strings(tiny_shards: ShardSet) -> None:
    threshold = np.float64(0.5)
    loader = loader_of(
        tiny_shards, batch_size=np.int64(8), seed=np.int64(3), window=np.int64(9), repeat_threshold=threshold
    )
    state = loader.state_dict()
    assert {type(value) for value in state.values()} == {int, str, bool, float}
    loader.load_state_dict(json.loads(json.dumps(state)))


def test_the_signature_names_every_field_of_the_config() -> None:
    arguments = inspect.signature(ShardLoader).parameters.keys() - {"path"}
    assert arguments == {field.name for field in dataclasses.fields(LoaderConfig)}


def test_an_observer_is_told_of_every_chunk(tiny_shards: ShardSet) -> None:
    class Noting:
        spans: ClassVar[list[tuple[float, float]]] = []

        def gathered(self, begin: float, end: float) -> None:
            self.spans.append((begin, end))

    loader = loader_of(tiny_shards)
    loader.observer = Noting()
    steps = len(list(loader))
    assert len(Noting.spans) == steps > 0
    assert all(begin <= end for begin, end in Noting.spans)
    loader.observer = None
    assert len(list(loader)) == len(Noting.spans)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": "no"}, "verify should be one of first-epoch, always, never and is 'no'"),
        ({"residence": "gpu"}, "residence should be one of"),
        ({"decode": "x"}, "decode should be one of cpu, gpu"),
        ({"threads": 0}, "threads should be a whole number of at least 1 and is 0"),
        ({"window": 0}, "window should be"),
        ({"batch_size": 2.5}, "batch_size should be"),
        ({"seed": -1}, "seed should be"),
        ({"repeat_threshold": 0}, "repeat_threshold should be above 0 and at most 1 and is 0"),
        ({"repeat_threshold": float("nan")}, "repeat_threshold should be above 0"),
        ({"repeat_threshold": 0.5, "shuffle": False}, "repeat_threshold needs shuffle=True"),
        ({"rank": 2, "world_size": 2}, "rank should be below world_size, and is 2 of 2"),
    ],
)
def test_wrong_arguments_are_refused(tiny_shards: ShardSet, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader_of(tiny_shards, **options)


def test_too_few_samples_for_a_batch_is_one_sentence(tiny_shards: ShardSet) -> None:
    with pytest.raises(UserError, match="fewer than one batch of 1000"):
        loader_of(tiny_shards, batch_size=1000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_sentence(tiny_shards: ShardSet) -> None:
    with pytest.raises(UserError, match="torch finds no CUDA device"):
        loader_of(tiny_shards, device="cuda")


def test_an_error_in_a_thread_reaches_the_consumer(tiny_shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = loader_of(tiny_shards)

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(loader.split, "gather", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader)
