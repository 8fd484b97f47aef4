"""The works of loading do with real shards what their names say, and as often as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import simplejpeg
import torch

from food101_fast.bench.reading import read_work
from food101_fast.bench.works import loading_stages
from food101_fast.loader import ShardLoader
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.storage import RemoteFolder


def test_decoding_decodes_every_image_that_it_counts(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "jpeg"
    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, encoding="jpeg", workers=1))
    loader = ShardLoader(ShardSet.open(out), split="train", batch_size=8, device=torch.device("cpu"), threads=1)
    stages = loading_stages(loader)
    decode, decoded = simplejpeg.decode_jpeg, []

    def counted(*arguments: Any, **options: Any) -> Any:
        decoded.append(arguments)
        return decode(*arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    assert stages["decode"].work() == len(decoded) == 8
    assert stages["checksum"].work() == len(decoded) == 8  # which decodes nothing


def test_remote_shards_are_read_whole_and_in_turn(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}"
    system, root = fsspec.core.url_to_fs(url)
    system.put(str(tiny_path), root, recursive=True)
    shards = ShardSet.open(url)
    read, received = RemoteFolder.read, []

    def counted(self: RemoteFolder, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        content = read(self, name, start, stop)
        received.append((name, len(content)))
        return content

    monkeypatch.setattr(RemoteFolder, "read", counted)
    work = read_work(shards)
    entries = shards.manifest.splits["train"].shards
    assert [work() for _ in range(len(entries) + 1)] == [entry.samples for entry in [*entries, entries[0]]]
    assert received == [(entry.name, entry.bytes) for entry in [*entries, entries[0]]]
