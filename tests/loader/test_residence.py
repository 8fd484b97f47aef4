"""The residence changes no batch; `auto` chooses it from the free memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.loader import Batch, ShardLoader
from food101_fast.loader.residence import Choice, Residence, choose_residence, free_host_memory
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet

GB = 10**9
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def jpeg_path(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "jpeg"
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, encoding="jpeg", samples_per_shard=9)
    prepare(settings)
    return out


def epochs(shards: ShardSet, count: int, **options: Any) -> list[list[Batch]]:
    loader = ShardLoader(shards, **{"split": "train", "batch_size": 8, **options})
    return [list(loader) for _ in range(count)]


def assert_equal(one: list[list[Batch]], other: list[list[Batch]]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert a.ids.equal(b.ids)
            assert a.labels.equal(b.labels)
            assert a.images.equal(b.images)
            assert a.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("residence", ["host", "device", "auto"])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_residence_changes_no_batch(
    tiny_path: Path, jpeg_path: Path, residence: Residence, world: int, encoding: str
) -> None:
    shards = ShardSet.open(tiny_path if encoding == "raw" else jpeg_path)
    for rank in range(world):
        options = {"batch_size": 6, "rank": rank, "world_size": world, "threads": 2}
        ours = epochs(shards, 4, residence=residence, **options)
        assert_equal(ours, epochs(shards, 4, **options))


@pytest.mark.parametrize("world", [1, 2])
def test_rows_on_a_device(tiny_shards: ShardSet, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    """As on a GPU, with the CPU as the device: rows are stored when they arrive, and later selected there."""
    chosen = Choice(residence="device", reason="for the test")
    for rank in range(world):
        options: dict[str, Any] = {"batch_size": 6, "rank": rank, "world_size": world}
        expected = epochs(tiny_shards, 4, **options)
        with monkeypatch.context() as patch:
            patch.setattr("food101_fast.loader.batches.choose_residence", lambda *_: chosen)
            loader = ShardLoader(tiny_shards, split="train", **options)
        ours = [list(loader)]
        state = loader.state_dict()
        assert_equal([ours[0], *(list(loader) for _ in range(3))], expected)
        assert loader.counters.images == sum(len(batch.ids) for epoch in expected for batch in epoch)
        monkeypatch.setattr(loader.split, "gather", None)  # it is not called any more
        loader.load_state_dict(state | {"step": 2})
        assert_equal([list(loader)], [expected[1][2:]])
        monkeypatch.undo()


def test_rows_in_memory_need_no_files(tiny_shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=8, residence="host")
    expected = epochs(tiny_shards, 3)
    assert len(list(loader)) == len(loader)
    left = len(loader.split) - len(loader) * 8
    read: list[int] = []
    gather = loader.split.gather

    def counted(ids: NDArray[np.int64], out: torch.Tensor) -> NDArray[np.int64]:
        read.append(ids.size)
        return gather(ids, out)

    monkeypatch.setattr(loader.split, "gather", counted)
    assert_equal([list(loader), list(loader)], expected[1:])
    assert sum(read) == left > 0  # the rest of the first epoch, and nothing else


def test_an_epoch_left_early_is_no_first_epoch(tiny_shards: ShardSet) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=8, residence="host")
    for _batch in loader:
        break
    assert_equal([list(loader) for _ in range(3)], epochs(tiny_shards, 3))


@pytest.mark.parametrize(
    ("asked", "need", "device", "encoding", "free_host", "free_device", "expected"),
    [
        ("auto", 9 * GB, CUDA, "raw", 100 * GB, 130 * GB, "device"),
        ("auto", 9 * GB, CUDA, "jpeg", 100 * GB, 130 * GB, "device"),
        ("auto", 9 * GB, CUDA, "raw", 100 * GB, 24 * GB, "stream"),
        ("auto", 9 * GB, CUDA, "jpeg", 100 * GB, 24 * GB, "host"),
        ("auto", 9 * GB, CPU, "raw", 100 * GB, None, "stream"),
        ("auto", 9 * GB, CPU, "jpeg", 100 * GB, None, "host"),
        ("auto", 9 * GB, CPU, "jpeg", 16 * GB, None, "stream"),
        ("auto", 9 * GB, CPU, "any", 20 * GB, None, "host"),
        ("stream", 9 * GB, CUDA, "jpeg", 1 * GB, 1 * GB, "stream"),
        ("host", 9 * GB, CPU, "raw", 10 * GB, None, "host"),
        ("device", 9 * GB, CPU, "raw", 10 * GB, None, "host"),
        ("device", 9 * GB, CUDA, "raw", 1 * GB, 10 * GB, "device"),
    ],
)
def test_the_choice(
    asked: Residence,
    need: int,
    device: torch.device,
    encoding: str,
    free_host: int,
    free_device: int | None,
    expected: str,
) -> None:
    choice = choose_residence(asked, need, device, encoding, free_host, free_device)
    assert choice.residence == expected
    assert "9 GB" in choice.reason
    assert ("as asked" in choice.reason) == (asked in ("stream", "host") or choice.residence == asked == "device")


@pytest.mark.parametrize(("asked", "device", "free"), [("host", CPU, None), ("device", CUDA, 8 * GB)])
def test_what_does_not_fit_is_refused(asked: Residence, device: torch.device, free: int | None) -> None:
    with pytest.raises(UserError, match=f"residence '{asked}' needs 9 GB"):
        choose_residence(asked, 9 * GB, device, "raw", 8 * GB, free)


def test_free_memory_is_shared_by_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_host_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0.15 * alone < free_host_memory() < 0.35 * alone
