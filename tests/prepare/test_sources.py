"""What each source lists, and how it refuses what it can't use."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from food101_fast.errors import UserError
from food101_fast.images import RejectedError, Rules, clean
from food101_fast.prepare.sources import KINDS, SourceOptions, open_source
from tests.conftest import encoded, picture, write_folder


def test_a_folder_lists_classes_and_files_in_order(tiny_folder: Path) -> None:
    source = open_source(f"folder:{tiny_folder}")
    assert source.classes == ("apple pie", "ramen", "tacos")
    assert np.bincount(source.labels).tolist() == [20, 30, 23]
    assert source.names[:2] == ["000", "001"]
    assert source.read(20) == (tiny_folder / "ramen" / "000.jpg").read_bytes()
    assert source.fingerprint == open_source(f"folder:{tiny_folder}").fingerprint


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "b": 2})
    before = open_source(f"folder:{tmp_path}").fingerprint
    (tmp_path / "b" / "more.jpg").write_bytes(b"x")
    assert open_source(f"folder:{tmp_path}").fingerprint != before


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("a", "b")
    assert source.labels.size == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no folder"),
        (lambda path: path.mkdir(), "has no class folders"),
        (lambda path: (path / "pizza").mkdir(parents=True), "is empty"),
        (lambda path: write_folder(path, {"train": 1, "test": 1}), "have no class folders"),
        (lambda path: write_folder(path, {"a": 5}), "one class folder only, a, and a classifier needs two"),
    ],
)
def test_a_folder_without_images_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "images")
    with pytest.raises(UserError, match=message):
        open_source(f"folder:{tmp_path / 'images'}")


@pytest.mark.parametrize("text", ["", "folder", "folder:", "hub:", "demo", "demo:x", "s3://bucket", "tar:x"])
def test_an_unknown_source_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown source"):
        open_source(text)


def test_a_path_without_kind_is_understood(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\n")
    for text, meant in ((tmp_path, "folder:"), (tmp_path / "t.csv", "table:"), (tmp_path / "a.zip", "folder:")):
        with pytest.raises(UserError, match=f"did you mean {meant}"):
            open_source(str(text))
    with pytest.raises(UserError, match=r"food101_fast\.shards index"):
        open_source("train-000.tar")
    with pytest.raises(UserError, match="for a table give --columns label=NAME"):
        open_source(f"table:{tmp_path / 't.csv'}", SourceOptions(label_column="x"))


def test_the_help_names_every_kind(command: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = command("prepare", "--help")
    assert all(f"{kind}:" in out for kind in KINDS)


def test_the_demo_has_three_corrupt_files() -> None:
    source = open_source("demo:")
    assert np.bincount(source.labels).sum() == 1003
    reasons: Counter[str] = Counter()
    for position in [0, 500, 999, 1000, 1001, 1002]:
        try:
            clean(source.read(position), Rules(size=32))
        except RejectedError as error:
            reasons[error.reason] += 1
    assert reasons == {"truncated": 1, "not-an-image": 1, "empty": 1}
    assert source.read(3) == open_source("demo:").read(3) != open_source("demo:", SourceOptions(seed=1)).read(3)


def hub_folder(path: Path) -> Path:
    """A local hub data set with two splits, class names that are not sorted, and an unlabelled sample."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["tacos", "apple_pie"])}
    )
    path.mkdir()
    for name, labels in {"train": [0, 1, 1], "validation": [1, 0, -1]}.items():
        rows = {
            "image": [{"bytes": encoded(picture(i, 40, 40)), "path": f"{name}{i}.jpg"} for i in range(3)],
            "label": labels,
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path / f"{name}-00000-of-00001.parquet")
    return path


def test_the_hub_joins_splits_and_keeps_the_order_of_classes(tmp_path: Path) -> None:
    source = open_source(f"hub:{hub_folder(tmp_path / 'set')}")
    assert source.classes == ("tacos", "apple_pie")
    assert source.labels.tolist() == [0, 1, 1, 1, 0]
    assert source.names == ["train0", "train1", "train2", "validation0", "validation1"]
    assert source.read(3) == encoded(picture(0, 40, 40))
    assert pickle.loads(pickle.dumps(source)).read(4) == source.read(4)


def test_a_wrong_hub_name_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="load_dataset") as error:
        open_source(f"hub:{tmp_path / 'nothing'}")
    assert "\n" not in str(error.value)


def test_a_data_set_without_labels_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="is known to be the image"):
        open_source(f"hub:{tmp_path}")
