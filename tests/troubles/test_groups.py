"""Images of one patient, shoot or camera in two splits make a result too good (leakage).

Seen in: the pages of scikit-learn on StratifiedGroupKFold, timm's and torchvision's discussions of medical images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.given import groups_of
from food101_fast.prepare.sources import open_source
from food101_fast.prepare.split import grouped_split
from tests.conftest import encoded, picture, stored_labels

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=12, max_size=200),
    st.sampled_from([SHARES, {"train": 0.5, "test": 0.5}, {"train": 0.9, "val": 0.1}, {"train": 1.0}]),
    st.integers(0, 3),
)
def test_no_group_is_in_two_splits(samples: list[tuple[int, int]], shares: dict[str, float], seed: int) -> None:
    labels, groups = (np.array(column, np.int64) for column in zip(*samples, strict=True))
    if np.unique(groups).size < len(shares):
        with pytest.raises(UserError, match="--group-by finds"):
            grouped_split(labels, groups, shares, seed)
        return
    splits = grouped_split(labels, groups, shares, seed)
    assert list(splits) == list(shares)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(labels.size))
    members = [set(groups[positions].tolist()) for positions in splits.values()]
    assert all(members)
    assert sum(map(len, members)) == len(set().union(*members))


def test_many_small_groups_come_near_the_shares() -> None:
    labels = np.arange(2000) % 4
    groups = np.arange(2000) // 5
    splits = grouped_split(labels, groups, SHARES, 0)
    for name, positions in splits.items():
        counts = np.bincount(labels[positions]) / 500
        assert np.abs(counts - SHARES[name]).max() < 0.03


def write_patients(root: Path) -> Path:
    """Two classes; patients 0 to 29 with two images each, one of which may be of either class."""
    for patient in range(30):
        for i in range(2):
            folder = root / ("ill" if patient % 2 else "well")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"p{patient:02d}_{i}.jpg").write_bytes(encoded(picture(patient * 2 + i, 20, 20)))
    return root


@pytest.mark.parametrize("pattern", [r"p\d+", r"/(p\d\d)_"])
def test_prepare_keeps_groups_together_and_says_the_shares(tmp_path: Path, pattern: str, command: object) -> None:
    root = write_patients(tmp_path / "images")
    assert callable(command)
    code, out, _ = command(
        "prepare", "--source", f"folder:{root}", "--out", str(tmp_path / "out"), "--size", "16", "--group-by", pattern
    )
    assert code == 0
    assert "shares with whole groups" in out
    seen: dict[str, str] = {}
    for name in ("train", "val", "test"):
        for key in stored_labels(tmp_path / "out", name):
            patient = key.split("/")[-1][:3]
            assert seen.setdefault(patient, name) == name
    assert set(seen.values()) == {"train", "val", "test"}


def test_a_file_without_a_number_can_be_its_own_group(tmp_path: Path) -> None:
    root = write_patients(tmp_path / "images")
    for name in ("odd", "other"):
        (root / "ill" / f"{name}.jpg").write_bytes(encoded(picture(len(name) + 500, 20, 20)))
    settings = PrepareSettings(
        source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1, group_by=r"p(\d+)_[^/]*$|[^/]+$"
    )
    prepare(settings)
    groups = groups_of(open_source(settings.source), settings.group_by)
    assert groups is not None
    assert np.unique(groups).size == 32


def test_an_empty_cell_and_a_wrong_column_are_told_apart(tmp_path: Path) -> None:
    write_patients(tmp_path / "images")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted((tmp_path / "images").rglob("*.jpg"))]
    (tmp_path / "t.csv").write_text(
        "file,label,patient\n" + "".join(f"{row},{i % 7 or ''}\n" for i, row in enumerate(rows))
    )
    source = open_source(f"table:{tmp_path / 't.csv'}")
    with pytest.raises(UserError, match="the column patient of --group-by is empty for 9 of 60 files"):
        groups_of(source, "patient")
    with pytest.raises(UserError, match="the columns are file, label, patient"):
        groups_of(source, "patiant")
    with pytest.raises(UserError, match="give --group-by group, too"):
        PrepareSettings(out=tmp_path / "out", source="table:t.csv", columns=("label=label,group=patient",))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is not a regular expression"), ("q", "finds no group for 60 of 60 files"), ("ill|well", "finds 2 groups")],
)
def test_a_wrong_pattern_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    root = write_patients(tmp_path / "images")
    with pytest.raises(UserError, match=message):
        prepare(PrepareSettings(source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1, group_by=pattern))


def test_a_group_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    write_patients(tmp_path / "images" / "train")
    root = write_patients(tmp_path / "images" / "test").parent
    with pytest.raises(UserError, match=r"finds 30 groups in two splits .* that of train/.*jpg and test/.*jpg"):
        prepare(
            PrepareSettings(
                source=f"folder:{root}",
                out=tmp_path / "out",
                size=16,
                workers=1,
                splits="source",
                duplicates="keep",
                group_by=r"p\d+",
            )
        )
