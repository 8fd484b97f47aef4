"""Tars of class folders, as plain `tar` makes them: the name of an image's folder is its label.

Report: webdataset#135 (how to make and split a WebDataset from what one has).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from food101_fast.errors import UserError
from tests.conftest import write_folder
from tests.troubles.tars import Members, image, index, labels, rejects, write_tar


def test_a_tar_of_class_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_folder(tmp_path / split, {"apple pie": 3, "007": 2}, width=16, height=16)
        subprocess.run(["tar", "-cf", f"{split}.tar", split], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match=r"if the folders in the tars are the classes, give --label-from folder"):
        index(tmp_path / "{train,val}.tar")
    manifest = index(tmp_path / "{train,val}.tar", label_from="folder")
    assert manifest.classes == ("007", "apple pie")
    assert manifest.rejects == {}
    assert sorted(labels(tmp_path)) == ["007"] * 2 + ["apple pie"] * 3


def test_what_was_given_is_not_advised(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a sample needs an image \(.*\) in a folder that is its class$"):
        index(write_tar(tmp_path / "train.tar", [("1.png", image(1))]), label_from="folder")


SPLITS_INSIDE: list[tuple[str, ...]] = [("train", "val"), ("data/training", "data/validation"), ("a/train", "a/test")]


@pytest.mark.parametrize("folders", SPLITS_INSIDE)
@pytest.mark.parametrize("label_from", ["folder", "member"])
def test_the_splits_inside_a_tar_are_not_mixed(tmp_path: Path, folders: tuple[str, ...], label_from: str) -> None:
    members: Members = []
    for number, folder in enumerate(folders):
        members += [(f"./{folder}/cat/{number}.png", image(number)), (f"./{folder}/cat/{number}.cls", b"cat")]
    tar = write_tar(tmp_path / "all.tar", members)
    first, last = (folder.rpartition("/")[2] for folder in folders)
    with pytest.raises(UserError, match=rf"splits inside \({first}/ and {last}/\); unpack it, or make a tar for each"):
        index(tar, split="train", label_from=label_from, val_fraction=0.5)


@pytest.mark.parametrize("folders", [("train", "test"), ("train/train", "train/eval")])
def test_classes_may_be_named_like_splits(tmp_path: Path, folders: tuple[str, ...]) -> None:
    members: Members = [(f"{folder}/{n}.png", image(n)) for n, folder in enumerate(folders)]
    tar = write_tar(tmp_path / "all.tar", members)
    assert index(tar, split="train", label_from="folder").splits["train"].samples == 2


def test_every_image_is_a_sample_whatever_its_name(tmp_path: Path) -> None:
    members: Members = [
        ("./cat/IMG_1.jpg", image(1, "jpg")),
        ("./cat/IMG_1.edited.jpg", image(2, "jpg")),
        ("./cat/IMG_1.png", image(3)),
        ("./cat/._IMG_1.png", b"of a Mac"),
        ("./dog/scan.0001.PNG", image(4)),
        ("./dog/notes.txt", b"all my dogs"),
        ("alone.png", image(5)),
        ("./dog/scan.0001.PNG", image(6)),
    ]
    index(write_tar(tmp_path / "train.tar", members), label_from="folder", max_collisions=1)
    assert labels(tmp_path) == ["cat", "cat", "cat", "dog"]
    assert {(line["reason"], line["file"]) for line in rejects(tmp_path)} == {
        ("no-image", "train.tar/./dog/notes.txt"),
        ("no-label", "train.tar/alone.png"),
        ("key-collision", "train.tar/./dog/scan.0001.PNG"),
    }
