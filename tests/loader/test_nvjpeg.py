"""Decoding batches on a device: only the decoder differs between devices, so the rest is tested on the CPU."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.loader import ShardLoader
from food101_fast.loader.nvjpeg import DeviceRing, GpuDecoder, torchcodec_decoder
from food101_fast.loader.pipeline import Counters, Pipeline
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("shards") / "jpeg"
    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, encoding="jpeg", samples_per_shard=9))
    return ShardSet.open(out)


def decode(files: list[torch.Tensor], *, mode: str, device: torch.device) -> list[torch.Tensor]:
    """Decode like torchcodec, with the decoder of the CPU path."""
    assert mode == "RGB"
    assert device == CPU
    return [torch.from_numpy(simplejpeg.decode_jpeg(file.numpy())).permute(2, 0, 1) for file in files]


def test_batches_are_those_of_the_cpu(shards: ShardSet) -> None:
    split = shards.split("train")
    decoder = GpuDecoder(split, CPU, decode)
    ring = DeviceRing(split.row_bytes, CPU, decoder.stream)
    pipeline = Pipeline(decoder, ring, ahead=2, chunk=8, counters=Counters())
    batches = list(ShardLoader(shards, split="train", batch_size=8, drop_last=False))
    made = pipeline.run((batch.ids.numpy() for batch in batches), threads=2)
    for batch, (ids, loaded) in zip(batches, made, strict=True):
        assert np.array_equal(ids, batch.ids.numpy())
        assert loaded.rows.view(-1, 32, 32, 3).permute(0, 3, 1, 2).equal(batch.images)
        assert loaded.numbers.equal(torch.stack([batch.labels, batch.ids]))


def test_what_does_not_decode_is_named(shards: ShardSet) -> None:
    def fails(*_: object, **__: object) -> list[torch.Tensor]:
        raise RuntimeError("nvjpegDecode failed")

    def small(files: list[torch.Tensor], **_: object) -> list[torch.Tensor]:
        return [torch.zeros(3, 16, 32, dtype=torch.uint8) for _ in files]

    out = torch.empty(2, 32 * 32 * 3, dtype=torch.uint8)
    for wrong, message in ((fails, "samples 3 to 5 .* does not decode"), (small, r"sample 3 .* shape \(3, 16, 32\)")):
        with pytest.raises(DamagedDataError, match=message):
            GpuDecoder(shards.split("train"), CPU, wrong).gather(np.array([3, 5]), out)


def test_it_needs_jpeg_and_a_cuda_device(shards: ShardSet, tiny_shards: ShardSet) -> None:
    with pytest.raises(UserError, match="is for JPEG shards, and these are raw"):
        GpuDecoder(tiny_shards.split("train"), CPU, decode)
    with pytest.raises(UserError, match="needs a CUDA device"):
        ShardLoader(shards, split="train", batch_size=8, decode="gpu")


def test_an_absent_or_old_torchcodec_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (None, types.ModuleType("torchcodec.decoders")):
        monkeypatch.setitem(sys.modules, "torchcodec", module and types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
        with pytest.raises(UserError, match=r"needs torchcodec 0\.17 or newer") as error:
            torchcodec_decoder()
        assert "\n" not in str(error.value)
