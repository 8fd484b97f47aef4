"""On a CUDA device: the batches of the CPU, from wherever rows are kept, and no buffer filled under a copy."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from food101_fast.loader import ShardLoader
from food101_fast.loader.residence import Residence
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("residence", ["stream", "host", "device"])
def test_batches_are_those_of_the_cpu(tiny_folder: Path, tmp_path: Path, residence: Residence, encoding: str) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path, size=32, samples_per_shard=9)
    prepare(PrepareSettings(**{**vars(settings), "encoding": encoding}))
    shards = ShardSet.open(tmp_path)
    loaders = [
        ShardLoader(shards, split="train", batch_size=8, device="cuda", residence=residence),
        ShardLoader(shards, split="train", batch_size=8),
    ]
    for _ in range(4):
        for ours, expected in zip(*loaders, strict=True):
            assert ours.images.device.type == "cuda"
            assert ours.images.is_contiguous(memory_format=torch.channels_last)
            assert ours.images.cpu().equal(expected.images)
            assert ours.labels.cpu().equal(expected.labels)
            assert ours.ids.cpu().equal(expected.ids)


def test_no_buffer_is_filled_under_a_copy(tiny_shards: ShardSet) -> None:
    """Checksums of 10,000 batches, computed on the device behind work that delays the reader's stream."""
    split = tiny_shards.split("train")
    sums = torch.from_numpy(np.array([split[sample].astype(np.int64).sum() for sample in range(len(split))])).cuda()
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, device="cuda", threads=4, prefetch=8)
    delay = torch.randn(1024, 1024, device="cuda")
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    batches = 0
    while batches < 10_000:
        for batch in loader:
            if batches % 7 == 0:
                delay = torch.tanh(delay @ delay)
            found = batch.images.to(torch.int64).sum(dim=(1, 2, 3))
            wrong += (found != sums[batch.ids]).sum()
            batches += 1
    assert wrong.item() == 0


def test_early_exits_keep_no_thread_and_no_memory(tiny_shards: ShardSet) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, device="cuda")
    for _ in range(3):
        next(iter(loader))
    gc.collect()
    torch.cuda.synchronize()
    threads, memory = threading.active_count(), torch.cuda.memory_allocated()
    for _ in range(20):
        next(iter(loader))
    gc.collect()
    torch.cuda.synchronize()
    assert threading.active_count() == threads
    assert torch.cuda.memory_allocated() <= memory + 2**20
