"""Identical files: one is kept, none where their labels differ, and never do two splits share one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import orjson
import pytest

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from tests.conftest import encoded, picture, write_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of 30 pictures, and copies of every kind."""
    folder = write_folder(tmp_path / "images", {"a": 30, "b": 30})
    twin = (folder / "a" / "004.jpg").read_bytes()
    for name in ("x1", "x2"):
        (folder / "a" / f"{name}.jpg").write_bytes(twin)
    (folder / "b" / "conflict.jpg").write_bytes((folder / "a" / "007.jpg").read_bytes())
    for name in ("a", "b"):
        (folder / name / "empty1.jpg").write_bytes(b"")
        (folder / name / "empty2.jpg").write_bytes(b"")
        (folder / name / "page.jpg").write_bytes(b"<html>not found</html>")
    half = encoded(picture(77, 90, 90))[:-300]
    for name in ("half1", "half2"):
        (folder / "b" / f"{name}.jpg").write_bytes(half)
    return folder


def rejects(out: Path) -> dict[str, tuple[str, str]]:
    lines = [orjson.loads(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    return {line["key"]: (line["reason"], line["detail"]) for line in lines}


def test_each_copy_gets_its_reason(source: Path, tmp_path: Path) -> None:
    manifest = prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16))
    found = rejects(tmp_path / "out")
    assert {key: reason for key, (reason, _) in found.items()} == {
        "a/x1": "duplicate",
        "a/x2": "duplicate",
        "a/007": "label-conflict",
        "b/conflict": "label-conflict",
        **dict.fromkeys(["a/empty1", "a/empty2", "b/empty1", "b/empty2"], "empty"),
        "a/page": "not-an-image",  # two labels, but that is not what is wrong with them
        "b/page": "not-an-image",
        "b/half1": "truncated",
        "b/half2": "duplicate",
    }
    assert found["a/x2"][1] == "the same as a/004.jpg"
    assert found["a/007"][1] == "the same as b/conflict.jpg of class b"
    assert manifest.rejects == Counter(reason for reason, _ in found.values())
    assert manifest.read == 60 + 3 + 8
    assert sum(split.samples for split in manifest.splits.values()) == 60 - 1


def test_no_image_stands_twice(source: Path, tmp_path: Path) -> None:
    prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16))
    shards = ShardSet.open(tmp_path / "out")
    rows = Counter(
        shards.split(name)[i].tobytes() for name in shards.manifest.splits for i in range(len(shards.split(name)))
    )
    assert set(rows.values()) == {1}


def test_they_can_be_kept(source: Path, tmp_path: Path) -> None:
    manifest = prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16, duplicates="keep"))
    assert manifest.rejects == {"empty": 4, "not-an-image": 2, "truncated": 2}


@pytest.mark.slow  # half a minute for 100,956 files
def test_the_known_groups_of_food101_are_found(photographs: Path, tmp_path: Path) -> None:
    """58 groups of byte-identical files, two of which carry different labels."""
    settings = PrepareSettings(source=f"hub:{photographs / 'food101-64px'}", out=tmp_path / "out", size=8)
    manifest = prepare(settings)
    found = rejects(tmp_path / "out")
    conflicts = {key for key, (reason, _) in found.items() if reason == "label-conflict"}
    assert len(conflicts) == 4
    assert {re.sub("-.*", "", key) for key in conflicts} == {
        "omelette/2619753",
        "pancakes/2619752",
        "prime_rib/76271",
        "steak/97656",
    }
    originals = {detail for reason, detail in found.values() if reason == "duplicate"}
    assert len(originals) + len(conflicts) // 2 == 58
    assert manifest.rejects == Counter(reason for reason, _ in found.values())
    written = sum(split.samples for split in manifest.splits.values())
    assert manifest.read == 100_956 == written + len(found)
