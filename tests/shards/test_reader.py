"""A folder that is whole is read by id; a folder that is not is refused with one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from food101_fast.errors import UserError
from food101_fast.images import Rules, clean
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.shards.manifest import read_manifest
from food101_fast.shards.mapped import copy_rows, read_records
from food101_fast.storage import LocalFolder
from tests.conftest import flip, write_folder


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = orjson.loads(path.read_bytes())
    change(document)
    path.write_bytes(orjson.dumps(document))


def open_all(path: Path) -> None:
    shards = ShardSet.open(path)
    for name in shards.manifest.splits:
        shards.split(name).open_all()


def test_rows_by_id_are_the_shards_content(tiny_shards: ShardSet, tiny_path: Path) -> None:
    split = tiny_shards.split("train")
    start = 0
    for entry in tiny_shards.manifest.splits["train"].shards:
        content = (tiny_path / entry.name).read_bytes()
        for row, record in enumerate(np.load(tiny_path / entry.name.replace(".tar", ".index.npy"))):
            payload = content[int(record["offset"]) : int(record["offset"] + record["length"])]
            assert split[start + row].tobytes() == payload[128:]
            assert split.labels[start + row] == record["label"]
        start += entry.samples
    assert start == len(split)


def test_gather_takes_any_ids(tiny_shards: ShardSet) -> None:
    split = tiny_shards.split("train")
    ids = np.array([len(split) - 1, 0, 0, 12])
    out = torch.zeros(4, split.row_bytes, dtype=torch.uint8)
    split.gather(ids, out)
    assert all(np.array_equal(out[i].numpy(), split[j].ravel()) for i, j in enumerate(ids.tolist()))
    for wrong in (-1, len(split)):
        with pytest.raises(IndexError):
            split.gather(np.array([0, wrong]), out[:2])
    with pytest.raises(IndexError):
        split[len(split)]


def test_what_was_not_read_before_its_shard_was_closed_is_still_checked(copy: Path) -> None:
    shards = ShardSet.open(copy)
    split = shards.split("train")
    split.most_open = 1
    rows = int(split.shard_samples[0])
    read = list(range(0, rows, 2))
    out = torch.zeros(len(read), split.row_bytes, dtype=torch.uint8)
    split.gather(np.array(read), out)
    assert split.unchecked == len(split) - len(read)
    split[rows]  # closes the first shard
    records = np.load(copy / split.entries[0].name.replace(".tar", ".index.npy"))
    for row in (0, 1):
        flip(copy / split.entries[0].name, int(records["offset"][row]) + 200)
    split[0]  # was checked, which holds for as long as the split does
    with pytest.raises(UserError, match=r"sample 1 .*changed after"):
        split[1]
    with pytest.raises(UserError, match=r"sample 0 .*changed after"):
        shards.split("train", verify="always")[0]


def test_shards_may_be_closed_while_a_batch_is_read(tiny_shards: ShardSet) -> None:
    split = tiny_shards.split("train")
    split.open_all()
    out = torch.zeros(len(split), split.row_bytes, dtype=torch.uint8)
    split.gather(np.arange(len(split)), out)
    _, records, held, contents = split._find(np.arange(len(split)))
    split.most_open = 1
    split.gather(np.array([0]), out[:1])
    assert len(split._open) == 1
    again = torch.zeros_like(out)
    copy_rows(contents + records["offset"].astype(np.int64) + 128, again)
    assert again.equal(out)
    assert len(held) == len(split.entries)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("row_bytes", [1, 7, 8, 48, 1001])
def test_rows_are_copied_from_any_address(row_bytes: int, aligned: bool) -> None:
    rng = np.random.default_rng(row_bytes)
    memory = rng.integers(0, 256, 5000, dtype=np.uint8)
    starts = rng.integers(0, (5000 - row_bytes) // 8, 20) * 8 + (0 if aligned else rng.integers(0, 8, 20))
    out = torch.zeros(20, row_bytes, dtype=torch.uint8)
    copy_rows(memory.ctypes.data + starts, out)
    assert all(out[i].tolist() == memory[start : start + row_bytes].tolist() for i, start in enumerate(starts.tolist()))


def test_records_are_read_from_any_arrays() -> None:
    kind = np.dtype([("a", "<u8"), ("b", "<i8"), ("c", "<u8")])
    arrays = [np.arange(3 * n, dtype=np.int64).view(kind) for n in (1, 5, 9)]
    where = [(2, 8), (0, 0), (2, 8), (1, 3)]
    addresses = np.array([arrays[i].ctypes.data + j * kind.itemsize for i, j in where])
    assert read_records(addresses, kind).tolist() == [arrays[i][j].item() for i, j in where]
    assert read_records(addresses[:0], kind).shape == (0,)


def test_writing_to_a_row_does_not_change_the_file(tiny_shards: ShardSet, tiny_path: Path) -> None:
    before = (tiny_path / "val-000000.tar").read_bytes()
    tiny_shards.split("val")[0][:] = 0
    assert (tiny_path / "val-000000.tar").read_bytes() == before


def test_the_manifest_survives_a_round_trip(tiny_path: Path) -> None:
    manifest = read_manifest(LocalFolder(tiny_path))
    assert manifest.to_json() == (tiny_path / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path), "there is no shards folder"),
        (lambda path: (path / "manifest.json").unlink(), "it is not a finished folder of shards"),
        (lambda path: (path / "manifest.json").write_bytes(b'{"format": "food1'), "is damaged"),
        (lambda path: (path / "manifest.json").write_bytes(b"[]"), "is damaged"),
        (lambda path: edit(path / "manifest.json", lambda m: m.update(version=2)), "format version 2"),
        (lambda path: edit(path / "manifest.json", lambda m: m.pop("classes")), "missing required field `classes`"),
        (lambda path: edit(path / "manifest.json", lambda m: m.update(classes=[])), "class names are missing"),
        (lambda path: edit(path / "manifest.json", lambda m: m.update(read=1)), "is damaged"),
        (lambda path: edit(path / "manifest.json", lambda m: m.update(seed=7)), "was changed after it was written"),
        (
            lambda path: edit(path / "manifest.json", lambda m: m.update(image_size="32")),
            "`int`, got `str` - at `[$].image_size`",
        ),
        (lambda path: edit(path / "manifest.json", lambda m: m["splits"].update(extra={})), "is damaged"),
        (
            lambda path: edit(path / "manifest.json", lambda m: m["splits"]["val"]["shards"][0].update(name="../x")),
            "plain file name",
        ),
        (lambda path: (path / "val-000000.tar").unlink(), "is missing"),
        (lambda path: (path / "val-000000.tar").write_bytes(b"short"), "has 5 bytes and the manifest says"),
        (lambda path: (path / "val-000000.index.npy").unlink(), "is missing"),
        (lambda path: flip(path / "val-000000.index.npy", 140), "is not the index that the manifest describes"),
    ],
)
def test_a_damaged_folder_is_one_sentence(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        open_all(copy)
    assert "\n" not in str(error.value)
    assert "copy" in str(error.value)


def test_a_shard_whose_images_were_all_dropped_is_passed_over(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {"a": 10, "b": 20})
    whole = {path.read_bytes() for path in source.rglob("*.jpg")}
    (source / "b" / "007.jpg").write_bytes(b"")
    settings = PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16, workers=1, samples_per_shard=1)
    prepare(settings)
    shards = ShardSet.open(tmp_path / "out")
    entries = [entry for split in shards.manifest.splits.values() for entry in split.shards]
    assert sorted(entry.samples for entry in entries) == [0] + [1] * 29
    pixels = {row.tobytes() for name in shards.manifest.splits for row in map(shards.split(name).__getitem__, range(2))}
    assert pixels <= {clean(data, Rules(size=16)).pixels.tobytes() for data in whole}
    for name in shards.manifest.splits:
        split = shards.split(name)
        out = torch.zeros(len(split), split.row_bytes, dtype=torch.uint8)
        split.gather(np.arange(len(split)), out)
        assert out.any(dim=1).all()


def test_an_unknown_split_is_named(tiny_shards: ShardSet) -> None:
    with pytest.raises(UserError, match="has no split 'holdout', only train, val, test; choose one"):
        tiny_shards.split("holdout")
