"""A loader that is used for long, and left at any moment, leaks nothing."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet

MAPS = Path("/proc/self/maps")


def used() -> dict[str, int]:
    """What this process uses: threads, descriptors, maps, and pages of memory."""
    gc.collect()
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "maps": MAPS.read_text().count("\n"),
        "pages": int(Path("/proc/self/statm").read_text().split()[1]),
    }


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="stream"),
        pytest.param({"window": 20}, id="window", marks=pytest.mark.slow),
        pytest.param({"residence": "host"}, id="host", marks=pytest.mark.slow),
    ],
)
def test_a_thousand_epochs_and_early_exits_keep_nothing(tiny_shards: ShardSet, options: dict[str, Any]) -> None:
    loader = ShardLoader(tiny_shards, split="val", batch_size=2, threads=2, **options)

    def epochs(count: int) -> None:
        for _ in range(count):
            assert sum(len(batch.ids) for batch in loader) == len(loader) * 2

    def early_exits(count: int) -> None:
        for _ in range(count):
            for _batch in loader:
                break

    epochs(100)
    early_exits(5)
    before = used()
    epochs(1000)
    early_exits(20)
    after = used()
    assert after["threads"] == before["threads"]
    assert after["descriptors"] == before["descriptors"]
    assert after["maps"] <= before["maps"] + 8
    assert after["pages"] <= before["pages"] + 1024  # 4 MB; a kB kept per epoch would be 1 MB, a batch 18 MB


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_shards_need_no_descriptor(tiny_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_path, tmp_path / "shards")  # what other tests keep open does not count
    before = len(os.listdir("/proc/self/fd"))
    split = ShardSet.open(path).split("train")
    split.open_all()
    assert MAPS.read_text().count(f"{path}/train-") >= len(split.entries)
    assert len(os.listdir("/proc/self/fd")) == before
    del split
    gc.collect()
    assert f"{path}/train-" not in MAPS.read_text()


def test_a_window_keeps_few_shards_open(tiny_shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("food101_fast.shards.split._MOST_OPEN", 0)  # of local shards many may stay open
    loader = ShardLoader(tiny_shards, split="train", batch_size=2, window=9, prefetch=2)
    seen = set()
    for batch in loader:
        seen.update(batch.ids.tolist())
        assert len(loader.split._open) <= 3
    assert len(loader.split.entries) > 3
    assert len(seen) == len(loader) * 2
