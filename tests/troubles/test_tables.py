"""Tables of files and labels: read as they were saved, nothing guessed, nothing lost without a line about it.

Reports: fastai/fastai#1008 and sdv-dev/SDV#2780 (leading zeros lost), UKGovernmentBEIS/inspect_ai#301 (a byte order
mark in the first column's name), ludwig-ai/ludwig#113 (not UTF-8), yhenon/pytorch-retinanet#226 (paths relative to
something else), ieee8023/covid-chestxray-dataset#96 (names without suffix), fastai/fastai#894 and
ml-hongkong/hongkong_flowers#7 (rows whose file is missing), huggingface/datasets#4311 (metadata that does not match).
"""

from __future__ import annotations

import os
import pickle
import tarfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.prepare.sources import open_source
from food101_fast.prepare.sources import table as table_module
from tests.conftest import encoded, picture
from tests.troubles.tables import EXPECTED, Row, listed, opened, photos, prepared, rows_of, text, write


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.ndjson", "t.json", "t.parquet", "T.CSV"])
def test_each_form_of_table_is_prepared(tmp_path: Path, name: str) -> None:
    table = write(tmp_path / name, rows_of(photos(tmp_path)), "\t" if name == "t.tsv" else ",")
    assert prepared(tmp_path / "out", table) == EXPECTED


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_the_metadata_of_an_imagefolder_works_as_it_is(tmp_path: Path, name: str) -> None:
    photos(tmp_path)
    table = write(tmp_path / "img" / name, rows_of([f"{i}.jpg" for i in range(12)], file="file_name"))
    assert prepared(tmp_path / "out", table) == EXPECTED


@pytest.mark.parametrize("file", table_module.FILE_COLUMNS)
def test_common_names_of_columns_are_recognized(tmp_path: Path, file: str) -> None:
    rows = rows_of(photos(tmp_path, 2), file=file.replace("_", " ").title(), label="Category")
    assert listed(opened(write(tmp_path / "t.csv", rows))) == [("img/0.jpg", "apple pie"), ("img/1.jpg", "pizza")]


def test_columns_can_be_given(tmp_path: Path) -> None:
    names = photos(tmp_path, 3)
    rows = [{"a": n, "b": f"c{i}", "path": "no", "label": "no", "fold": i % 2, "who": i} for i, n in enumerate(names)]
    source = opened(write(tmp_path / "t.csv", rows), file="a", label="b", split="fold", group="who")
    assert listed(source) == [(name, f"c{i}") for i, name in enumerate(names)]
    assert source.splits is not None
    assert source.splits.names == ("0", "1")
    assert source.splits.numbers.tolist() == [0, 1, 0]
    assert source.column("group") == source.column("who") == ["0", "1", "2"]
    assert source.column("nothing") is None
    assert opened(tmp_path / "t.csv", file="a,label=b,split=fold,group=who").fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": "no"}, "has no column no; correct --columns file=.* columns a, path, label, class, day, tags"),
        ({"image": "path"}, "image=path should begin with one of file=, label=, split=, group="),
        ({}, "several columns that may be the label: label, class; choose with --columns label=NAME"),
        ({"label": "tags"}, "column tags .* has bytes, a list or a record in each row"),
        ({"file": "a", "label": "label"}, "column a .* has values of type int64, not names of files"),
        ({"label": "day"}, "column day .* has values of type timestamp"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    date = datetime(2026, 1, 1)
    rows = [{"a": 1, "path": photos(tmp_path, 1)[0], "label": "x", "class": "y", "day": date, "tags": ["x"]}]
    with pytest.raises(UserError, match=message) as error:
        opened(write(tmp_path / "t.parquet", rows), **columns)
    assert "\n" not in str(error.value)


def test_an_unknown_column_is_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", rows_of(photos(tmp_path, 1), file="photo"))
    with pytest.raises(UserError, match=r"no column .* known to be the file; choose with .* columns photo, label"):
        opened(table)


def test_rows_without_file_or_label_are_listed(tmp_path: Path) -> None:
    names = photos(tmp_path, 3)
    table = text(tmp_path / "t.csv", f"file,label\n{names[0]},a\n,a\n{names[1]},\n,\nimg/gone.jpg,a\n{names[2]},b\n")
    source = opened(table)
    assert listed(source) == [(names[0], "a"), (names[2], "b")]
    assert [(reject.reason, reject.file, reject.detail) for reject in source.rejects] == [
        ("no-image", "row 2", "row 2 names no file"),
        ("no-label", names[1], "row 3 has no label"),
        ("no-image", "row 4", "row 4 names no file"),
        ("missing-file", "img/gone.jpg", "row 5 names a file that does not exist"),
    ]
    assert len({reject.key for reject in source.rejects}) == 4


def test_what_a_table_lacks_is_counted(tmp_path: Path) -> None:
    names = photos(tmp_path)
    table = write(
        tmp_path / "t.csv", [*rows_of(names), {"file": "no.jpg", "label": "pizza"}, {"file": "", "label": ""}]
    )
    assert prepared(tmp_path / "out", table) == EXPECTED
    manifest = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert (manifest["read"], manifest["rejects"]) == (14, {"missing-file": 1, "no-image": 1})


def test_a_split_column_and_a_group_column_decide_the_splits(tmp_path: Path) -> None:
    names = photos(tmp_path, 24)
    rows = [
        {"file": name, "label": "ab"[i % 2], "split": ("train", "train", "test")[i // 8], "patient": i // 4}
        for i, name in enumerate(names)
    ]
    table = write(tmp_path / "t.parquet", rows)

    def of_split(folder: Path, split: str) -> set[int]:
        keys: set[int] = set()
        for path in folder.glob(f"{split}-*.tar"):
            with tarfile.open(path) as tar:
                keys.update(int(Path(name).stem) for name in tar.getnames())
        return keys

    prepared(tmp_path / "a", table, splits="source", val_fraction=0.25, fractions=(0.8, 0.1, 0.1))
    assert of_split(tmp_path / "a", "test") == set(range(16, 24))
    assert len(of_split(tmp_path / "a", "val")) == 4
    prepared(tmp_path / "b", table, columns=("group=patient",), group_by="group")
    splits = [of_split(tmp_path / "b", split) for split in ("train", "val", "test")]
    assert set().union(*splits) == set(range(24))
    patients = [{i // 4 for i in split} for split in splits]
    assert sum(map(len, patients)) == 6
    assert all(patients)


@given(
    st.lists(
        st.tuples(st.sampled_from(["img/0.jpg", "img/1.jpg", "no.jpg", ""]), st.sampled_from(["a", "b", ""])),
        max_size=12,
    )
)
def test_no_row_is_lost(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    photos(folder, 2)
    every = [*rows, *[("img/0.jpg", "a")] * (len(rows) + 1)]
    source = opened(text(folder / "t.csv", "file,label\n" + "".join(f"{file},{label}\n" for file, label in every)))
    assert source.labels.size + len(source.rejects) == len(every)
    assert Counter(listed(source)) == Counter((f, c) for f, c in every if f in ("img/0.jpg", "img/1.jpg") and c)


def test_a_wrong_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    photos(tmp_path)
    table = write(tmp_path / "img" / "t.csv", rows_of([f"img/{i}.jpg" for i in range(12)]))
    with pytest.raises(
        UserError, match=r"12 of the 12 files .* do not exist, such as .*0\.jpg, .*1\.jpg, .*2\.jpg; paths"
    ):
        prepared(tmp_path / "out", table)
    assert not (tmp_path / "out").exists()


def test_names_without_suffix_are_explained(tmp_path: Path) -> None:
    photos(tmp_path, 2)
    with pytest.raises(UserError, match=r"with \.jpg the first exists: write the suffix into the table"):
        opened(write(tmp_path / "t.csv", rows_of(["img/0", "img/1"])))


def test_paths_may_be_absolute(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in photos(tmp_path)]
    (tmp_path / "elsewhere").mkdir()
    assert prepared(tmp_path / "out", write(tmp_path / "elsewhere" / "t.csv", rows_of(names))) == EXPECTED


def test_paths_are_relative_to_the_table_not_to_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(tmp_path / "t.csv", rows_of(photos(tmp_path)))
    monkeypatch.chdir(tmp_path)
    assert prepared(tmp_path / "out", table.name) == EXPECTED


def test_a_file_in_two_rows_is_a_duplicate(tmp_path: Path) -> None:
    names = photos(tmp_path)
    rows = rows_of(names)
    again = [rows[0], {"file": names[1], "label": "apple pie"}]
    table = write(tmp_path / "t.csv", rows + again)
    assert prepared(tmp_path / "out", table) == EXPECTED - Counter(["pizza/1"])
    reasons = [orjson.loads(line)["reason"] for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert sorted(reasons) == ["duplicate", "label-conflict", "label-conflict"]


def test_the_fingerprint_changes_with_what_is_listed(tmp_path: Path) -> None:
    names = photos(tmp_path, 4)
    rows: list[Row] = [{"file": name, "label": "a", "split": "train"} for name in names]
    before = opened(write(tmp_path / "t.csv", rows)).fingerprint
    assert opened(write(tmp_path / "same.csv", rows)).fingerprint == before
    for change in ({"file": names[0]}, {"label": "b"}, {"split": "test"}):
        changed = opened(write(tmp_path / "t.csv", [*rows[:3], rows[3] | change]))
        assert changed.fingerprint != before
    groups = [opened(tmp_path / "same.csv", group=name).fingerprint for name in ("label", "file")]
    assert len({before, *groups}) == 3
    (tmp_path / names[0]).write_bytes(b"another")
    assert opened(write(tmp_path / "t.csv", rows)).fingerprint != before


def test_own_splits(tmp_path: Path) -> None:
    names = photos(tmp_path, 4)
    rows = [
        {"file": name, "label": "a", "split": split}
        for name, split in zip(names, ["train2017", "val", "", "train2017"], strict=True)
    ]
    splits = opened(write(tmp_path / "t.csv", rows)).splits
    assert splits is not None
    assert opened(tmp_path / "t.csv").column("split") == ["train2017", "val", None, "train2017"]
    assert splits.names == ("train2017", "val")
    assert splits.numbers.tolist() == [0, 1, -1, 0]
    assert opened(write(tmp_path / "t.csv", rows_of(names))).splits is None


def test_images_in_the_table_itself_belong_to_hub(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": encoded(picture(i, 20, 20)), "path": f"{i}.jpg"}, "label": "a"} for i in range(2)]
    table = write(tmp_path / "t.parquet", rows)
    with pytest.raises(UserError, match=r"column image .* the images themselves, .* give hub:") as error:
        opened(table)
    assert open_source(str(error.value).partition("give ")[2].partition(",")[0]).labels.size == 2


def test_what_workers_get_is_small_and_reads_the_same(tmp_path: Path) -> None:
    names = photos(tmp_path, 1)
    rows = [{"file": names[0], "label": "a", "caption": "x" * 100 + str(i)} for i in range(5000)]
    source = opened(write(tmp_path / "t.jsonl", rows))
    sent = pickle.dumps(source)
    assert len(sent) < 5000 * 40
    received = pickle.loads(sent)
    assert received.read(4999) == source.read(4999) == (tmp_path / names[0]).read_bytes()
    assert received.classes == source.classes
    np.testing.assert_array_equal(received.labels, source.labels)


def test_a_file_that_goes_away_is_an_error(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "t.csv", rows_of(photos(tmp_path, 2))))
    os.remove(tmp_path / "img" / "1.jpg")
    with pytest.raises(UserError, match=r"img/1\.jpg cannot be read \(No such file"):
        source.read(1)
