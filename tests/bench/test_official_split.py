"""Photographs get the official split by class and name; those that the lists do not name are left out, and listed."""

from __future__ import annotations

import csv
import importlib
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from food101_fast.errors import UserError
from tests.conftest import encoded, picture

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LISTS = {"train": [("1.jpg", 0), ("2.jpg", 1)], "validation": [("2.jpg", 0), ("7.jpg", 1)]}


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A copy of the data set: two classes, with the same name of a file in both."""
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "label": ClassLabel(names=["apple_pie", "waffles"])})
    for split, rows in LISTS.items():
        images = [{"bytes": encoded(picture(number, 8, 8)), "path": name} for number, (name, _) in enumerate(rows)]
        data = Dataset.from_dict({"image": images, "label": [label for _, label in rows]}, features=features)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder.parent


def test_photographs_get_their_split(
    names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("official_split")
    photos, out = tmp_path / "photos", tmp_path / "food.csv"
    arguments = ["--photos", str(photos), "--names", str(names), "--out", str(out)]
    with pytest.raises(UserError, match="give the folder with the class folders"):
        script.main(arguments)
    for name in ("apple_pie/2.jpg", "waffles/2.jpg", "waffles/7.jpg", "waffles/9.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"")
    script.main(arguments)
    with out.open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(Path(row["file"]).relative_to(photos).as_posix(), row["label"], row["split"]) for row in rows] == [
        ("apple_pie/2.jpg", "apple_pie", "test"),
        ("waffles/2.jpg", "waffles", "train"),
        ("waffles/7.jpg", "waffles", "test"),
    ]
    said = capsys.readouterr().out
    assert "train 1, test 2 of 2 classes" in said
    assert f"do not name them: 1 ({photos}/waffles/9.jpg)" in said
    with pytest.raises(UserError, match=r"has no train-\*\.parquet"):
        script.main(["--photos", str(photos), "--names", str(photos), "--out", str(out)])


def test_val_is_the_same_share_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("official_split")
    sizes = {"a": 40, "b": 20}
    files = [(label, number) for label, size in sizes.items() for number in range(size)]
    rows = [(f"{label}/{number}.jpg", label, "train" if number % 2 else "test") for label, number in files]
    changed = script.with_val(rows, 0.2, seed=0)
    counts = Counter((label, split) for _, label, split in changed)
    assert counts == {
        ("a", "train"): 16, ("a", "val"): 4, ("a", "test"): 20, ("b", "train"): 8, ("b", "val"): 2, ("b", "test"): 10
    }  # fmt: skip
    assert [(file, label) for file, label, _ in changed] == [(file, label) for file, label, _ in rows]
    assert changed == script.with_val(rows, 0.2, seed=0)
    assert changed != script.with_val(rows, 0.2, seed=1)
