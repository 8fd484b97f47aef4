"""Split folders of class folders, in the spellings that people use.

Seen in: torchvision's ImageNet layout (train, val), Kaggle's Intel scenes (seg_train/seg_train/CLASS, seg_pred without
classes) and cats and dogs (training_set, test_set), COCO's names (train2017), ILSVRC2012_img_val, Tiny ImageNet
(val/images without classes), Food-11 (training, validation, evaluation).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.sources import open_source
from food101_fast.shards import Manifest
from food101_fast.shards.protocol import remarks
from tests.conftest import encoded, picture, stored_labels

CLASSES = ("pizza", "ramen", "sushi")


def write_splits(root: Path, folders: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """Split folders with so many images of each class, all of them different."""
    seed = 0
    for folder, count in folders.items():
        for name in classes:
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                (root / folder / name / f"{i}.jpg").write_bytes(encoded(picture(seed, 20, 20)))
                seed += 1
    return root


def prepared(root: Path, out: Path, *, map_splits: tuple[str, ...] = (), test_fraction: float = 0.0) -> Manifest:
    return prepare(
        PrepareSettings(
            source=f"folder:{root}",
            splits="source",
            map_splits=map_splits,
            test_fraction=test_fraction,
            out=out,
            size=16,
            workers=1,
        )
    )


def sizes(manifest: Manifest) -> dict[str, int]:
    return {name: split.samples for name, split in manifest.splits.items()}


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("training", "validation", "evaluation"),
        ("training_set", "dev_set", "test_set"),
        ("train2017", "val2017", "test2017"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "ILSVRC2012_img_test"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("data/photos/train", "data/photos/dev", "data/photos/eval"),
        ("myTrain", "myVal", "myTest"),
    ],
)
def test_three_splits_are_kept(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    root = write_splits(tmp_path / "images", dict(zip(folders, (4, 2, 3), strict=True)))
    manifest = prepared(root, tmp_path / "out")
    assert sizes(manifest) == {"train": 12, "val": 6, "test": 9}
    assert manifest.classes == CLASSES
    assert sorted(manifest.given_splits.values()) == ["test", "train", "val"]


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_the_only_split_beside_train_is_test(tmp_path: Path, held_out: str) -> None:
    root = write_splits(tmp_path / "images", {"train": 20, held_out: 3})
    manifest = prepared(root, tmp_path / "out")
    assert sizes(manifest) == {"train": 54, "val": 6, "test": 9}
    assert len(stored_labels(tmp_path / "out", "test")) == 9
    assert manifest.given_splits == {"train": "train", held_out: "test"}


def test_val_stays_val_when_it_is_said_or_test_is_cut(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 20, "val": 3})
    assert sizes(prepared(root, tmp_path / "a", map_splits=("val=val",))) == {"train": 60, "val": 9}
    assert sizes(prepared(root, tmp_path / "b", test_fraction=0.1)) == {"train": 54, "val": 9, "test": 6}


def test_images_without_a_class_folder_are_counted_and_named(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 20, "val": 2})
    (root / "test" / "images").mkdir(parents=True)
    for path in (root / "test" / "images" / "1.jpg", root / "loose.JPG"):
        path.write_bytes(encoded(picture(900, 20, 20)))
    (root / "README.txt").write_text("not an image")
    manifest = prepared(root, tmp_path / "out")
    assert manifest.rejects == {"no-label": 2}
    assert manifest.read == sum(sizes(manifest).values()) + 2
    lines = (tmp_path / "out" / "rejects.jsonl").read_text()
    assert "test/images/1.jpg" in lines
    assert "loose.JPG" in lines


def test_without_the_flag_splits_are_joined_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_splits(tmp_path / "images", {"train": 7, "val": 3})
    manifest = prepare(PrepareSettings(source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1))
    assert sizes(manifest) == {"train": 24, "val": 3, "test": 3}
    assert "the splits of the source (train, val) are joined" in capsys.readouterr().err


def test_classes_that_are_called_like_splits_are_classes(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {".": 1}, ("train", "bus", "test"))
    source = open_source(f"folder:{root}")
    assert source.classes == ("bus", "test", "train")
    assert source.splits is None


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (("train", "val"), ("cat",), "have one class folder only, cat"),
        (("train", "val", "extra"), ("cat", "dog"), "and also extra"),
    ],
)
def test_unclear_folders_are_refused_with_what_was_seen(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...], message: str
) -> None:
    root = write_splits(tmp_path / "images", dict.fromkeys(folders, 1), classes)
    with pytest.raises(UserError, match=message):
        open_source(f"folder:{root}")


def test_split_folders_with_other_classes_are_refused(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 1}, ("cat", "dog"))
    write_splits(root, {"test": 1}, ("oak", "elm"))
    with pytest.raises(UserError, match=r"their class folders differ \(train has cat, dog; test has elm, oak\)"):
        open_source(f"folder:{root}")


def test_a_lone_train_folder_beside_images_is_refused(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 1}, ("cat", "dog"))
    (root / "more").mkdir()
    (root / "more" / "1.jpg").write_bytes(encoded(picture(7, 20, 20)))
    with pytest.raises(UserError, match=r"--source folder:.*/train if they are the classes"):
        open_source(f"folder:{root}")


@pytest.mark.parametrize(
    ("map_splits", "message"),
    [
        (("nope=train",), "should name a split of"),
        (("val=x",), "should name a split of"),
        (("val",), "NAME=VALUE"),
        (("train=drop",), "none is train"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path: Path, map_splits: tuple[str, ...], message: str) -> None:
    root = write_splits(tmp_path / "images", {"train": 2, "val": 1})
    with pytest.raises(UserError, match=message):
        prepared(root, tmp_path / "out", map_splits=map_splits)
    assert not (tmp_path / "out").exists()


def test_two_splits_of_one_kind_need_a_map(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 10, "test": 2, "test_v2": 3})
    with pytest.raises(UserError, match=r"test and test_v2 .* would both be test"):
        prepared(root, tmp_path / "out")
    manifest = prepared(root, tmp_path / "out", map_splits=("test=test", "test_v2=drop"))
    assert sizes(manifest) == {"train": 27, "val": 3, "test": 6}
    assert manifest.given_splits == {"test": "test", "test_v2": "drop", "train": "train"}


def test_a_source_without_splits_says_so(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {".": 10})
    with pytest.raises(UserError, match="has no splits of its own"):
        prepared(root, tmp_path / "out")


def test_a_copy_in_two_splits_is_dropped_from_train(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 12, "val": 3, "test": 3})
    shared = (root / "test" / "pizza" / "0.jpg").read_bytes()
    (root / "train" / "pizza" / "copy.jpg").write_bytes(shared)
    (root / "train" / "ramen" / "other_label.jpg").write_bytes(shared)
    (root / "val" / "pizza" / "copy.jpg").write_bytes(shared)
    (root / "test" / "pizza" / "again.jpg").write_bytes(shared)  # the test split stays as it is
    (root / "train" / "sushi" / "in_val.jpg").write_bytes((root / "val" / "sushi" / "1.jpg").read_bytes())
    manifest = prepared(root, tmp_path / "out")
    assert sizes(manifest) == {"train": 36, "val": 9, "test": 10}
    assert manifest.rejects == {"duplicate": 4}
    lines = (tmp_path / "out" / "rejects.jsonl").read_text()
    assert "the same as test/pizza/0.jpg, which is in test" in lines or "again.jpg, which is in test" in lines
    assert "the same as val/sushi/1.jpg, which is in val" in lines


def test_copies_in_test_stay_and_are_named(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 12, "test": 3})
    shared = (root / "test" / "pizza" / "0.jpg").read_bytes()
    (root / "test" / "pizza" / "copy.jpg").write_bytes(shared)
    (root / "test" / "ramen" / "wrong.jpg").write_bytes(shared)
    manifest = prepared(root, tmp_path / "out")
    assert manifest.rejects == {}
    assert manifest.notes == {"duplicate": 1, "label-conflict": 1}
    assert "the same as test/pizza/0.jpg of class pizza; both stay" in (tmp_path / "out" / "notes.jsonl").read_text()


def test_another_map_does_not_change_what_val_becomes(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 20, "val": 3, "holdout": 2})
    with pytest.raises(UserError, match="and also holdout"):
        prepared(root, tmp_path / "out")
    table = tmp_path / "t.csv"
    rows = [f"{path},{path.parent.name},{path.parent.parent.name}\n" for path in sorted(root.rglob("*.jpg"))]
    table.write_text("file,label,fold\n" + "".join(rows))
    settings = PrepareSettings(source=f"table:{table}", splits="source", out=tmp_path / "out", size=16, workers=1)
    with pytest.raises(UserError, match="choose one with --columns split=NAME"):
        prepare(settings)
    settings = dataclasses.replace(settings, columns=("split=fold",), map_splits=("holdout=drop",))
    manifest = prepare(settings)
    assert sizes(manifest) == {"train": 54, "val": 6, "test": 9}
    assert remarks(manifest) == ["left out the images of holdout, as --map-splits says"]


def test_the_wrong_flags_are_refused(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "images", {"train": 10, "val": 2, "test": 2})
    with pytest.raises(UserError, match="--test-fraction is for a source without test"):
        prepared(root, tmp_path / "out", test_fraction=0.2)
    for flags in ({"val_fraction": 0.2}, {"map_splits": ("a=b",)}):
        with pytest.raises(UserError, match="is for --splits source"):
            PrepareSettings(out=tmp_path / "out", **flags)
    with pytest.raises(UserError, match="--fractions is for --splits stratified"):
        PrepareSettings(out=tmp_path / "out", splits="source", fractions=(0.7, 0.2, 0.1))
