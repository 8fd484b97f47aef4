"""Verify finds every kind of damage, names it, and finds nothing where nothing is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def pristine(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of several small shards in either encoding."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    prepare(
        PrepareSettings(
            source=f"folder:{tiny_folder}", out=out, size=16, samples_per_shard=20, encoding=request.param, workers=1
        )
    )
    return out


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(pristine, tmp_path / "out")


def change(path: Path, at: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    edit(manifest)
    del manifest["digest"]
    manifest["digest"] = xxhash.xxh3_64_hexdigest(orjson.dumps(manifest))
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))


def vouch(folder: Path, name: str) -> None:
    """Make the manifest agree with a shard or index that was changed, so that only its contents give it away."""

    def put_hash(manifest: dict[str, Any]) -> None:
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                for field, file in (("xxh3_64", shard["name"]), ("index_xxh3_64", index_of(shard["name"]))):
                    if file == name:
                        shard[field] = xxhash.xxh3_64_hexdigest((folder / name).read_bytes())

    edit_manifest(folder, put_hash)


def index_of(shard: str) -> str:
    return shard.removesuffix(".tar") + ".index.npy"


def problems(folder: Path) -> list[str]:
    return list(verify(LocalFolder(folder)))


def test_a_whole_folder_has_no_problems(pristine: Path) -> None:
    assert problems(pristine) == []


def first_payload(folder: Path) -> tuple[int, int]:
    index = np.load(folder / "train-000001.index.npy")
    return int(index["offset"][0]), int(index["length"][0])


def test_a_changed_byte_is_named_by_sample_and_offset(folder: Path) -> None:
    offset, length = first_payload(folder)
    shard = folder / "train-000001.tar"
    middle = offset + length // 2
    change(shard, middle, bytes([shard.read_bytes()[middle] ^ 1]))
    found = problems(folder)
    assert found[0] == "train-000001.tar: is not the file that the manifest describes (its hash differs)"
    assert found[1].startswith("train-000001.tar: sample 0 (")
    assert f"at byte {offset:,}: its bytes were changed after they were written" in found[1]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "val-000000.tar").unlink(), "val-000000.tar: cannot be read (No such file or directory)"),
        (lambda f: (f / "val-000000.index.npy").unlink(), "val-000000.index.npy: cannot be read"),
        (lambda f: (f / "val-000000.tar").write_bytes(b""), "val-000000.tar: has 0 bytes and the manifest says"),
        (lambda f: change(f / "val-000000.index.npy", -5, b"!"), "val-000000.index.npy: is not the file"),
        (lambda f: (f / "rejects.jsonl").unlink(), "rejects.jsonl: cannot be read"),
        (lambda f: (f / "rejects.jsonl").write_bytes(b'{"reason": "empty"}\n'), "rejects.jsonl: lists {'empty': 1}"),
        (lambda f: (f / "notes.jsonl").write_bytes(b"{"), "notes.jsonl: is damaged"),
        (lambda f: (f / "train-000009.tar").write_bytes(b"?"), "train-000009.tar: does not belong"),
    ],
)
def test_damaged_files_are_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    assert any(problem.startswith(message) for problem in problems(folder))


def test_a_wrong_label_is_found_though_every_hash_is_right(folder: Path) -> None:
    shard = folder / "train-000000.tar"
    at = 512  # the first member is a label
    change(shard, at, b"2" if shard.read_bytes()[at : at + 1] != b"2" else b"0")
    vouch(folder, shard.name)
    (found,) = problems(folder)
    assert "its .cls says" in found


def test_a_wrong_index_is_found_though_every_hash_is_right(folder: Path) -> None:
    path = folder / "train-000000.index.npy"
    index = np.load(path)
    index["offset"][3], index["offset"][4] = index["offset"][4], index["offset"][3]
    np.save(path, index)
    vouch(folder, path.name)
    assert len([problem for problem in problems(folder) if "the index has it at byte" in problem]) == 2


def test_wrong_class_counts_are_found(folder: Path) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        counts = manifest["splits"]["train"]["class_counts"]
        counts[0], counts[1] = counts[1], counts[0]

    edit_manifest(folder, swap)
    assert problems(folder) == ["manifest.json: the class counts of train are not those of its shards"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_of_a_shard_can_change_unnoticed(pristine: Path, data: st.DataObject) -> None:
    names = [path.name for path in pristine.iterdir() if path.name.endswith((".tar", ".npy"))]
    name = data.draw(st.sampled_from(sorted(names)))
    content = (pristine / name).read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    try:
        change(pristine / name, at, bytes([content[at] ^ (1 << bit)]))
        found = problems(pristine)
    finally:
        (pristine / name).write_bytes(content)
    assert found
    assert found[0].startswith(name)


def test_the_command_names_problems_and_exits_with_1(
    folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command("shards", "verify", str(folder))
    assert (code, out) == (0, f"{folder}: 73 images in {len(list(folder.glob('*.tar')))} shards, all as written\n")
    (folder / "test-000000.tar").unlink()
    code, out, _ = command("shards", "verify", str(folder))
    assert code == 1
    assert out.startswith("test-000000.tar: cannot be read")
    assert "1 problem; restore the folder from a copy, or remove it and make it again" in out
    (folder / "manifest.json").unlink()
    code, _, err = command("shards", "verify", str(folder))
    assert (code, err.count("\n")) == (2, 1)


def test_show_prints_a_table(folder: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("shards", "show", str(folder))
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{folder}: 73 images of 3 classes"
    assert any(line.split()[:2] == ["train", "58"] for line in lines)
    assert any(line.split() == ["ramen", "24", "3", "3", "30"] for line in lines)
    assert "read 73 = written 73 + dropped 0" in lines
