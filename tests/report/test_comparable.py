"""The box of the report says what an accuracy may be compared with, and shows published results only where it may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.report.comparable import PUBLISHED, comparable, food101_classes
from food101_fast.runs.run import Run, new_run, read_run, write_run
from food101_fast.shards import ShardSet
from food101_fast.shards.layout import SOURCE_PREFIX
from food101_fast.shards.protocol import SplitOrigin, split_origin
from food101_fast.train import Recipe
from tests.conftest import write_folder

ORIGIN = SplitOrigin(given={}, mixed={}, duplicates="drop", dropped=3)
OFFICIAL = {"train": "train", "validation": "test"}


@pytest.fixture
def run(tiny_run: Path) -> Run:
    return replace(read_run(tiny_run), classes=("cat", "dog", "ramen"))


def food101(run: Run, *, classes: int = 101, test: int = 250, **origin: Any) -> Run:
    """The run, as if it were on so many of Food-101's classes, with so many test images of each."""
    counts = {"train": (675,) * classes, "val": (75,) * classes, "test": (test,) * classes}
    names = tuple(sorted(food101_classes())[:classes])
    return replace(run, classes=names, class_counts=counts, origin=replace(ORIGIN, **origin))


def test_the_official_split_compares_with_published_results(run: Run) -> None:
    box = comparable(food101(run, given=OFFICIAL))
    assert box.title == "Food-101's official split"
    assert "its validation is test. These are 25,250 of the 25,250 official test images" in box.sentences[0]
    assert "No test image was trained on" in box.sentences[0]
    assert box.published == PUBLISHED
    # Three images less, as in copies of the data set without the damaged ones.
    fewer = food101(run, given=OFFICIAL)
    fewer.class_counts["test"] = (247, *fewer.class_counts["test"][1:])
    assert "25,247 of the 25,250" in comparable(fewer).sentences[0]
    assert comparable(fewer).published


@pytest.mark.parametrize("test", [240, 260])
def test_another_test_set_does_not(run: Run, test: int) -> None:
    """With 260 images of each class some are not official ones."""
    box = comparable(food101(run, given=OFFICIAL, test=test))
    assert box.title == "A part of Food-101, split by the source"
    assert f"Test has {101 * test:,} images of 101 classes, and the official test set has 25,250" in box.sentences[0]
    assert box.published == ()


def test_ten_classes_do_not(run: Run) -> None:
    box = comparable(food101(run, given=OFFICIAL, classes=10))
    assert "Test has 2,500 images of 10 classes, and the official test set has 25,250 of 101" in box.sentences[0]
    assert box.published == ()


def test_other_data_compare_on_their_own_test_images(run: Run) -> None:
    box = comparable(replace(run, origin=replace(ORIGIN, given=OFFICIAL)))
    assert box.title == "The source's own split"
    assert box.sentences[0].endswith("Compare with results on the same test images.")
    assert box.published == ()


def test_mixed_splits_say_how_many_test_images_were_trained_on(run: Run) -> None:
    mixed = {"train": {"train": 60_600, "val": 7_575, "test": 7_575}, "validation": {"train": 20_200, "test": 5_050}}
    box = comparable(food101(run, mixed=mixed))
    assert "20,200 of the 25,250 images of its validation were trained on" in box.sentences[0]
    assert "prepare with --splits source" in box.sentences[0]
    assert box.published == ()
    small = {"train": {"train": 28, "val": 4, "test": 3}, "test": {"train": 28, "val": 4, "test": 4}}
    assert (
        "28 of the 36 images of its test were trained on"
        in comparable(replace(run, origin=replace(ORIGIN, mixed=small))).sentences[0]
    )


def test_a_folder_without_splits_compares_with_the_same_shards(run: Run) -> None:
    box = comparable(replace(run, origin=ORIGIN))
    assert box.title == "A split that prepare made"
    assert run.data in box.sentences[0]
    assert "Food-101" not in box.sentences[0]
    assert "prepare hub:ethz/food101 with --splits source" in comparable(food101(run)).sentences[0]


def test_identical_files(run: Run) -> None:
    assert "3 identical files were left out" in comparable(replace(run, origin=ORIGIN)).sentences[1]
    kept = comparable(replace(run, origin=replace(ORIGIN, duplicates="keep")))
    assert "a file of test may be in train" in kept.sentences[1]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(weights="none"), "random at the start"),
        (Recipe(), "torchvision's weights DEFAULT of mobilenet_v2, trained on ImageNet"),
        (Recipe(model="timm/vit_base_patch16_224.augreg_in21k"), "(timm/vit_base_patch16_224.augreg_in21k)"),
        (Recipe(weights="runs/other"), "pretrained weights (runs/other). What these were trained on is not known"),
    ],
)
def test_pretraining(run: Run, recipe: Recipe, said: str) -> None:
    assert any(said in sentence for sentence in comparable(replace(run, recipe=recipe)).sentences)


def test_overlays_of_test_change_what_compares(run: Run) -> None:
    box = comparable(food101(run, given=OFFICIAL, overlaid=("train", "test")))
    assert any("An overlay changes train and test: images are left out" in sentence for sentence in box.sentences)
    assert box.published == ()
    of_train = comparable(food101(run, given=OFFICIAL, overlaid=("train",)))
    assert any("An overlay changes train. The test images" in sentence for sentence in of_train.sentences)
    assert of_train.published == PUBLISHED


def test_drawn_pictures_are_not_food101(run: Run) -> None:
    sentence = comparable(replace(food101(run), source="demo:")).sentences[0]
    assert "Food-101" not in sentence


def test_a_run_from_before_says_so(run: Run) -> None:
    box = comparable(replace(run, origin=None))
    assert "from a version that did not keep" in box.sentences[0]
    assert box.published == ()


def test_indexed_tars_have_splits_of_their_own(run: Run, tiny_shards: ShardSet) -> None:
    manifest = replace(tiny_shards.manifest, source=f"{SOURCE_PREFIX}train-{{000..009}}.tar", duplicates="keep")
    box = comparable(replace(run, origin=split_origin(manifest)))
    assert box.title == "The source's own split"
    assert box.sentences[0].startswith("The splits are those of the source. No test image")


def test_a_test_split_that_was_cut_from_train_is_no_published_one(run: Run) -> None:
    box = comparable(food101(run, given={"train": "train"}))
    assert "so prepare cut one from its train" in box.sentences[0]
    assert box.published == ()


@pytest.mark.parametrize("splits", ["source", "stratified"])
def test_it_is_kept_with_the_run(tmp_path: Path, splits: Any) -> None:
    """From split folders to `recipe.json`: the source's test is test, or is mixed with train."""
    for name, count in (("train", 20), ("test", 10)):
        write_folder(tmp_path / "images" / name, dict.fromkeys("ab", count), width=20, height=16 + len(name))
    settings = PrepareSettings(
        source=f"folder:{tmp_path / 'images'}", out=tmp_path / "out", size=16, workers=1, splits=splits
    )
    manifest = prepare(settings)
    shards = ShardSet.open(tmp_path / "out")
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", new_run(tmp_path / "run", Recipe(image_size=32), shards, torch.device("cpu"), ranks=1))
    origin = read_run(tmp_path / "run").origin
    assert origin is not None
    if splits == "source":
        assert (origin.given, origin.mixed) == ({"train": "train", "test": "test"}, {})
    else:
        assert (origin.given, origin.mixed) == ({}, manifest.mixed_splits)
        assert sum(origin.mixed["test"].values()) == 20
