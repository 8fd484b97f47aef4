"""On a CUDA device: the same batches as on the CPU for every residence; no buffer is filled while it is copied."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.loader.nvjpeg import torchcodec_decoder
from food101_fast.loader.residence import Residence
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from tests.cuda_device import DEVICES, chosen, harmless_warnings, needs_cuda, no_waiting

pytestmark = harmless_warnings


def made(folder: Path, out: Path, encoding: str) -> ShardSet:
    settings = PrepareSettings(source=f"folder:{folder}", out=out, size=32, samples_per_shard=9, workers=1)
    prepare(PrepareSettings(**{**vars(settings), "encoding": encoding}))
    return ShardSet.open(out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("residence", ["stream", "host", "device"])
def test_batches_are_those_of_the_cpu(
    tiny_folder: Path, tmp_path: Path, residence: Residence, encoding: str, device: str
) -> None:
    where, shards = chosen(device), made(tiny_folder, tmp_path, encoding)
    loaders = [
        ShardLoader(shards, split="train", batch_size=8, device=where, residence=residence),
        ShardLoader(shards, split="train", batch_size=8),
    ]
    for _ in range(4):
        for ours, expected in zip(*loaders, strict=True):
            assert ours.images.device.type == device
            assert ours.images.is_contiguous(memory_format=torch.channels_last)
            assert ours.images.cpu().equal(expected.images)
            assert ours.labels.cpu().equal(expected.labels)
            assert ours.ids.cpu().equal(expected.ids)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("residence", ["stream", "device"])
def test_a_loader_never_waits_for_the_device(residence: Residence, device: str, tiny_shards: ShardSet) -> None:
    """Except for waiting in the loader's threads, which torch's check does not see."""
    where = chosen(device)
    loader = ShardLoader(tiny_shards, split="train", batch_size=8, device=where, residence=residence)
    for _ in range(2):  # pinned memory is allocated, and rows that stay on the device are there
        for _ in loader:
            pass
    with no_waiting(where):
        batches = list(loader)
    assert len(batches) == len(loader)


@needs_cuda
@pytest.mark.parametrize("residence", ["stream", "device"])
def test_nvjpeg_decodes_the_images_of_the_cpu(tiny_folder: Path, tmp_path: Path, residence: Residence) -> None:
    """Compared with libjpeg-turbo without interpolated colors; they may differ by rounding."""
    try:
        torchcodec_decoder()
    except UserError as error:
        pytest.skip(str(error))
    where, shards = chosen("cuda"), made(tiny_folder, tmp_path, "jpeg")
    on_the_gpu = ShardLoader(
        shards, split="train", batch_size=8, device=where, decode="gpu", residence=residence, threads=2
    )
    for ours, expected in zip(on_the_gpu, ShardLoader(shards, split="train", batch_size=8), strict=True):
        assert ours.images.device.type == "cuda"
        assert ours.labels.cpu().equal(expected.labels)
        assert ours.ids.cpu().equal(expected.ids)
        files, _ = shards.split("train").payloads(expected.ids.numpy())
        repeated = [simplejpeg.decode_jpeg(file.numpy().tobytes(), "RGB", fastupsample=True) for file in files]
        difference = np.abs(ours.images.permute(0, 2, 3, 1).cpu().numpy().astype(int) - np.stack(repeated))
        assert difference.mean() < 1.5
        assert difference.max() <= 24
    sums: dict[int, int] = {}
    for _ in range(3):  # from the second epoch on the rows may stay on the device
        for batch in on_the_gpu:
            for sample, total in zip(batch.ids.tolist(), batch.images.long().sum(dim=(1, 2, 3)).tolist(), strict=True):
                assert sums.setdefault(sample, total) == total


@pytest.mark.parametrize("device", DEVICES)
def test_no_buffer_is_filled_under_a_copy(tiny_shards: ShardSet, device: str) -> None:
    """Compare checksums of many batches, computed on the device after work that delays the reader's stream."""
    where, split = chosen(device), tiny_shards.split("train")
    sums = torch.from_numpy(np.array([split[sample].astype(np.int64).sum() for sample in range(len(split))])).to(where)
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, device=where, threads=4, prefetch=8)
    size = 1024 if device == "cuda" else 8
    delay = torch.randn(size, size, device=where)
    wrong = torch.zeros((), dtype=torch.int64, device=where)
    batches = 0
    while batches < (10_000 if device == "cuda" else 50):
        for batch in loader:
            if batches % 7 == 0:
                delay = torch.tanh(delay @ delay)
            found = batch.images.to(torch.int64).sum(dim=(1, 2, 3))
            wrong += (found != sums[batch.ids]).sum()
            batches += 1
    assert wrong.item() == 0


@needs_cuda
def test_early_exits_keep_no_thread_and_no_memory(tiny_shards: ShardSet) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, device=chosen("cuda"))
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
