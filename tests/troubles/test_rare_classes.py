"""Classes with few images, and classes that are not wanted.

Seen in: scikit-learn's "The least populated class in y has only 1 member", fastai's and Keras's forums: one class of
many ends the run, after minutes, and the next one ends the next run.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, job, prepare
from food101_fast.shards import Manifest
from food101_fast.shards.protocol import remarks
from tests.conftest import contents, stored_labels, write_folder

COUNTS = {"apple": 20, "bread": 4, "corn, raw": 20, "dates": 1}


@pytest.fixture
def settings(tmp_path: Path) -> PrepareSettings:
    write_folder(tmp_path / "images", COUNTS, width=20, height=20)
    return PrepareSettings(source=f"folder:{tmp_path / 'images'}", out=tmp_path / "out", size=16, workers=1)


def counts(manifest: Manifest) -> dict[str, list[int]]:
    return {name: list(split.class_counts) for name, split in manifest.splits.items()}


def test_all_short_classes_are_named_before_anything_is_decoded(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "images" / "apple" / "000.jpg").unlink()
    (tmp_path / "images" / "apple" / "000.jpg").mkdir()  # would fail if it were read
    with pytest.raises(UserError, match=r"2 classes \(bread 4, dates 1\), and at least 10 are needed"):
        prepare(settings)
    assert not (tmp_path / "out").exists()


def test_one_class_spelled_twice_is_pointed_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", {"fried_rice": 20, "Fried rice": 2, "ramen": 20}, width=20, height=20)
    with pytest.raises(UserError, match="are 'Fried rice' and 'fried_rice' one class"):
        prepare(PrepareSettings(source=f"folder:{tmp_path / 'images'}", out=tmp_path / "out", size=16, workers=1))


def test_to_train_uses_them_to_train_only(settings: PrepareSettings) -> None:
    manifest = prepare(dataclasses.replace(settings, rare="to-train"))
    assert manifest.classes == tuple(COUNTS)
    assert counts(manifest) == {"train": [16, 4, 16, 1], "val": [2, 0, 2, 0], "test": [2, 0, 2, 0]}
    assert remarks(manifest) == [
        "val has no image of 2 classes: bread, dates",
        "test has no image of 2 classes: bread, dates",
    ]


def test_drop_leaves_them_out_and_names_them(settings: PrepareSettings, tmp_path: Path) -> None:
    manifest = prepare(dataclasses.replace(settings, rare="drop"))
    assert manifest.classes == ("apple", "corn, raw")
    assert counts(manifest) == {"train": [16, 16], "val": [2, 2], "test": [2, 2]}
    assert manifest.left_out == {"bread": 4, "dates": 1}
    assert manifest.read == 40
    assert remarks(manifest) == ["left out 2 classes (images each): bread 4, dates 1"]
    assert set(stored_labels(tmp_path / "out", "train").values()) == {0, 1}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"classes": ("corn, raw", "apple")}, ("apple", "corn, raw")),
        ({"classes": ("apple,corn, raw",)}, None),
        ({"exclude_classes": ("bread,dates",)}, ("apple", "corn, raw")),
        ({"min_images": 5}, ("apple", "corn, raw")),
        ({"classes": ("apple", "pear")}, None),
        ({"exclude_classes": ("apple", "bread", "dates")}, None),
    ],
)
def test_classes_are_chosen(
    settings: PrepareSettings, change: dict[str, tuple[str, ...]], left: tuple[str, ...] | None
) -> None:
    chosen = dataclasses.replace(settings, **change)  # type: ignore[arg-type]
    if left is None:
        with pytest.raises(UserError, match=r"--classes has '.*', which is not a class|leave 1 of 4 classes"):
            prepare(chosen)
    else:
        assert prepare(chosen).classes == left


def damaged(settings: PrepareSettings, tmp_path: Path, split: str, label: int) -> list[Path]:
    """Damage every image of a class in a split, as the first run of prepare chose them."""
    prepare(settings)
    keys = [key for key, of_key in stored_labels(Path(settings.out), split).items() if of_key == label]
    paths = [tmp_path / "images" / f"{key.replace('corn_raw', 'corn, raw')}.jpg" for key in keys]
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    return paths


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_damaged_last_image_is_replaced(
    settings: PrepareSettings, tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(
        settings, classes=("apple", "corn, raw"), fractions=(0.8, 0.1, 0.1), samples_per_shard=7, duplicates="keep"
    )
    paths = damaged(settings, tmp_path, split, 0)
    again = dataclasses.replace(settings, out=tmp_path / "again")
    manifest = prepare(again)
    expected = {"train": [15, 16], "val": [2, 2], "test": [2, 2]} | {split: [1, 2]}
    assert counts(manifest) == expected
    assert manifest.notes == {"moved": 1}
    assert manifest.rejects == {"truncated": 2}
    assert manifest.read == 40
    note = json.loads((tmp_path / "again" / "notes.jsonl").read_text())
    assert any(path.name in note["detail"] for path in paths)
    assert f"moved from train to {split}" in capsys.readouterr().err
    keys = [key for name in manifest.splits for key in stored_labels(tmp_path / "again", name)]
    assert len(keys) == len(set(keys)) == 38
    prepare(dataclasses.replace(again, out=tmp_path / "third"))
    assert contents(tmp_path / "third") == contents(tmp_path / "again")


def test_several_classes_and_splits_are_replaced_at_once(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(settings, classes=("apple", "corn, raw"), samples_per_shard=7)
    for split in ("val", "test"):
        for label in (0, 1):
            again = dataclasses.replace(settings, out=tmp_path / f"{split}{label}")
            damaged(again, tmp_path, split, label)
    rounds = []
    write = job.PrepareRun._write_shards

    def counted(run: job.PrepareRun, *arguments: Any) -> Any:
        rounds.append(run)
        return write(run, *arguments)

    monkeypatch.setattr(job.PrepareRun, "_write_shards", counted)
    manifest = prepare(dataclasses.replace(settings, out=tmp_path / "again"))
    assert counts(manifest) == {"train": [14, 14], "val": [1, 1], "test": [1, 1]}
    assert manifest.notes == {"moved": 4}
    assert manifest.read == 40
    assert len(rounds) == 2


def test_a_run_killed_after_a_replacement_continues(settings: PrepareSettings, tmp_path: Path) -> None:
    settings = dataclasses.replace(settings, classes=("apple", "corn, raw"), samples_per_shard=7)
    damaged(settings, tmp_path, "test", 1)
    whole = dataclasses.replace(settings, out=tmp_path / "whole")
    prepare(whole)
    killed = dataclasses.replace(settings, out=tmp_path / "killed")
    with pytest.MonkeyPatch.context() as patch:

        def die(*args: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(job, "make_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            prepare(killed)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    prepare(killed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
