"""`prepare --append`: old shards and splits stay, new files join, and nothing is read twice or lost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, job, prepare
from food101_fast.shards import Manifest, ShardSet
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.conftest import contents, encoded, picture, stored_labels, write_folder

CLASSES = ("a b", "c")


def add(root: Path, name: str, start: int, count: int) -> None:
    """New pictures in a class folder."""
    for i in range(start, start + count):
        (root / name / f"{i:03d}.jpg").write_bytes(encoded(picture(5000 + i + 1000 * len(name), 20, 20)))


@pytest.fixture
def settings(tmp_path: Path) -> PrepareSettings:
    root = write_folder(tmp_path / "images", dict.fromkeys(CLASSES, 20), width=20, height=20)
    (root / "c" / "broken.jpg").write_bytes(encoded(picture(1, 20, 20))[:300])
    settings = PrepareSettings(
        source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1, samples_per_shard=15, append=False
    )
    prepare(settings)
    return dataclasses.replace(settings, append=True)


def shards(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.endswith((".tar", ".npy"))}


def members(folder: Path) -> dict[str, str]:
    return {key: split for split in ("train", "val", "test") for key in stored_labels(folder, split)}


def check(manifest: Manifest, folder: Path) -> None:
    """The folder is whole and every image is accounted for."""
    assert list(verify(LocalFolder(folder))) == []
    written = sum(split.samples for split in manifest.splits.values())
    assert manifest.read == written + sum(manifest.rejects.values())
    assert len((folder / "rejects.jsonl").read_bytes().splitlines()) == sum(manifest.rejects.values())
    assert not (folder / ".unfinished").exists()
    assert len(members(folder)) == written


def test_new_files_join_and_old_shards_stay(settings: PrepareSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before, old_members = shards(out), members(out)
    old = ShardSet.open(out).manifest
    add(tmp_path / "images", "a b", 100, 20)
    add(tmp_path / "images", "c", 100, 3)
    (tmp_path / "images" / "c" / "also_broken.jpg").write_bytes(b"no image")
    (tmp_path / "images" / "c" / "copy.jpg").write_bytes((tmp_path / "images" / "c" / "003.jpg").read_bytes())
    (tmp_path / "images" / "c" / "wrong.jpg").write_bytes((tmp_path / "images" / "a b" / "003.jpg").read_bytes())
    with pytest.raises(UserError, match="give --append if files were added"):
        prepare(dataclasses.replace(settings, append=False))
    manifest = prepare(settings)
    check(manifest, out)
    after = shards(out)
    assert {name: after[name] for name in before} == before
    assert {key: split for key, split in members(out).items() if key in old_members} == old_members
    assert manifest.rejects == {"duplicate": 1, "label-conflict": 1, "not-an-image": 1, "truncated": 1}
    assert manifest.read == 41 + 26
    assert [earlier.digest for earlier in manifest.lineage] == [old.digest]
    counts = np.array([manifest.splits[name].class_counts for name in ("train", "val", "test")])
    assert counts[:, 0].tolist() == [32, 4, 4]
    assert counts[:, 1].sum() == 23


def test_a_second_append_and_one_with_nothing_new(settings: PrepareSettings, tmp_path: Path) -> None:
    add(tmp_path / "images", "c", 100, 4)
    first = prepare(settings)
    before = contents(tmp_path / "out")
    assert prepare(settings) == first
    assert contents(tmp_path / "out") == before
    add(tmp_path / "images", "c", 200, 4)
    second = prepare(settings)
    check(second, tmp_path / "out")
    assert len(second.lineage) == 2
    with pytest.raises(UserError, match="give --append to add what is new"):
        prepare(dataclasses.replace(settings, append=False))


def test_a_source_with_new_files_only(settings: PrepareSettings, tmp_path: Path) -> None:
    old_members = members(tmp_path / "out")
    for path in (tmp_path / "images").rglob("*.jpg"):
        path.unlink()
    add(tmp_path / "images", "a b", 100, 10)
    add(tmp_path / "images", "c", 100, 10)
    manifest = prepare(settings)
    check(manifest, tmp_path / "out")
    assert Counter(members(tmp_path / "out").values()) == {"train": 48, "val": 6, "test": 6}
    assert old_members.items() <= members(tmp_path / "out").items()


def test_a_killed_append_leaves_the_folder_valid_and_continues(settings: PrepareSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    add(tmp_path / "images", "a b", 100, 30)
    old = ShardSet.open(out).manifest
    with pytest.MonkeyPatch.context() as patch:

        def die(*args: object, **named: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(job, "make_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings)
    assert ShardSet.open(out).manifest == old
    (out / "val-000099.tar").write_bytes(b"a stray of an attempt with other files")
    manifest = prepare(settings)
    check(manifest, out)
    assert not (out / "val-000099.tar").exists()


def test_what_cannot_be_appended_is_refused(settings: PrepareSettings, tmp_path: Path) -> None:
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="is not a finished folder of shards"):
        prepare(dataclasses.replace(settings, out=tmp_path / "new"))
    with pytest.raises(UserError, match="started with other settings"):
        prepare(dataclasses.replace(settings, size=24))
    (tmp_path / "images" / "new class").mkdir()
    add(tmp_path / "images", "new class", 0, 3)
    with pytest.raises(UserError, match=r"has 1 classes that the folder does not have \(new class\)"):
        prepare(settings)
    assert contents(tmp_path / "out") == before


def test_names_that_are_too_much_alike_are_refused(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "images" / "c" / "003.png").write_bytes(encoded(picture(77, 20, 20), "PNG"))
    with pytest.raises(UserError, match=r"c/003.jpg, c/003.png are too much alike"):
        prepare(settings)


def test_groups_stay_in_their_split(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for group in range(24):
        for i in range(2):
            folder = root / CLASSES[group % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"g{group:02d}_{i}.jpg").write_bytes(encoded(picture(group * 10 + i, 20, 20)))
    settings = PrepareSettings(source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1, group_by=r"g\d+")
    prepare(settings)
    for group in range(30):
        for i in range(2, 4):
            path = root / CLASSES[group % 2] / f"g{group:02d}_{i}.jpg"
            path.write_bytes(encoded(picture(group * 10 + i, 20, 20)))
    manifest = prepare(dataclasses.replace(settings, append=True))
    check(manifest, tmp_path / "out")
    splits: dict[str, set[str]] = {}
    for key, split in members(tmp_path / "out").items():
        splits.setdefault(key.split("/")[1][:3], set()).add(split)
    assert len(splits) == 30
    assert all(len(found) == 1 for found in splits.values())
    (root / "c" / "g01_0.jpg").unlink()
    (root / "c" / "g01_9.jpg").write_bytes(encoded(picture(999, 20, 20)))
    with pytest.raises(UserError, match="no longer has 1 images of the folder"):
        prepare(dataclasses.replace(settings, append=True))


def test_the_splits_of_the_source_that_are_mixed_are_counted(tmp_path: Path) -> None:
    """Where a source has its own splits and all images are split anew: what was in its test, and is trained on now."""
    for name, count in (("train", 30), ("test", 10)):
        write_folder(tmp_path / "images" / name, dict.fromkeys(CLASSES, count), width=20, height=20 + len(name))
    (tmp_path / "images" / "test" / "c" / "broken.jpg").write_bytes(encoded(picture(1, 20, 20))[:300])
    settings = PrepareSettings(source=f"folder:{tmp_path / 'images'}", out=tmp_path / "out", size=16, workers=1)

    def check_counts(manifest: Manifest, added: int) -> None:
        assert {name: sum(of.values()) for name, of in manifest.mixed_splits.items()} == {
            "train": 60,
            "test": 20 + added,
        }
        for split, entry in manifest.splits.items():
            assert sum(of.get(split, 0) for of in manifest.mixed_splits.values()) == entry.samples

    check_counts(prepare(settings), 0)
    add(tmp_path / "images" / "test", "c", 100, 5)
    check_counts(prepare(dataclasses.replace(settings, append=True)), 5)
    kept = prepare(dataclasses.replace(settings, splits="source", out=tmp_path / "kept"))
    assert kept.mixed_splits == {}
