"""Tables as programs save them: encodings, quotes, delimiters, types of labels, and damaged ones.

Seen in: see test_tables.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.prepare.sources.labels import encode
from tests.conftest import encoded, picture
from tests.troubles.tables import Row, listed, opened, photos, text, write


def test_a_table_without_header_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"add a first line with names .* columns img/0\.jpg, pizza"):
        opened(text(tmp_path / "t.csv", f"{photos(tmp_path, 1)[0]},pizza\nimg/1.jpg,pizza\n"))


def test_leading_zeros_are_kept(tmp_path: Path) -> None:
    (tmp_path / "0001").write_bytes(encoded(picture(0, 20, 20)))
    for name, rows in {"t.csv": "file,label\n0001,007\n0001,7\n", "t.tsv": "file\tlabel\n0001\t007\n0001\t7\n"}.items():
        assert listed(opened(text(tmp_path / name, rows))) == [("0001", "007"), ("0001", "7")]


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        ([10, 9, 100], ("9", "10", "100"), [1, 0, 2]),
        (["10", "9", "100"], ("9", "10", "100"), [1, 0, 2]),
        ([2.0, 1.5, float("nan")], ("1.5", "2"), [1, 0, -1]),
        ([True, False, None], ("false", "true"), [1, 0, -1]),
        ([" b", "a ", ""], ("a", "b"), [1, 0, -1]),
        (["10", "9", "x"], ("10", "9", "x"), [0, 1, 2]),
        (["10.0", "9.0", ""], ("9", "10"), [1, 0, -1]),
        (["1.0", "1.10", "1"], ("1", "1.0", "1.10"), [1, 2, 0]),
        (["2.0", "x", "2"], ("2", "2.0", "x"), [1, 2, 0]),
        (["-1", "1", "-1"], ("-1", "1"), [0, 1, 0]),
        (["NA", "null", "None"], ("NA", "None", "null"), [0, 2, 1]),
    ],
)
def test_labels_are_text_of_their_value(values: list[Any], classes: tuple[str, ...], labels: list[int]) -> None:
    for array in (pyarrow.array(values), pyarrow.array(values).dictionary_encode()):
        found, numbers = encode(pyarrow.chunked_array([array]))
        assert (found, numbers.tolist()) == (classes, labels)


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_characters="."), max_size=3))), st.integers(0, 5))
def test_encoding_loses_no_value(values: list[str | None], cut: int) -> None:
    array = pyarrow.array(values, pyarrow.string())
    names, numbers = encode(pyarrow.chunked_array([array[:cut], array[cut:]]))
    found = [names[number] if number >= 0 else None for number in numbers]
    assert found == [(value or "").strip() or None for value in values]


@pytest.mark.parametrize(
    "content",
    [
        "\ufefffile,label\nimg/0.jpg,crème\n".encode(),
        "file;label\nimg/0.jpg;crème\n".encode(),
        "file\tlabel\nimg/0.jpg\tcrème\n".encode("utf-16"),
        "\r\nfile , label\r\n img/0.jpg , crème\r\n\r\n".encode(),
        '"file","label","note"\n"img/0.jpg","crème","two\nlines; and, more"\n'.encode(),
        ",file,label,,\n0,img/0.jpg,crème,,\n".encode(),
        "file|label\nimg/0.jpg|crème".encode(),
        "file,label\nimg\\0.jpg,crème\n".encode(),
    ],
)
def test_text_as_programs_save_it(tmp_path: Path, content: bytes) -> None:
    photos(tmp_path, 1)
    assert listed(opened(text(tmp_path / "t.csv", content))) == [("img/0.jpg", "crème")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"file,label\n", "has no rows"),
        ("t.csv", "file,label\na.jpg,crème\n".encode("latin-1"), r"is not UTF-8 \(byte 0xe8 in line 2\); save it"),
        ("t.csv", b"file,label\na.jpg,x\nb.jpg,x,y\n", r"Row #3: Expected 2 columns, got 3.*\); repair it"),
        ("t.csv", b"file,label,label\na.jpg,x,y\n", "several columns label; give each another name"),
        ("t.csv", b'file,label\na.jpg,"x\nb.jpg,x\nc.jpg,y\n', "row 1 .* opens a quote .* never closed"),
        ("t.csv", b"file,label\n,\na.jpg,\n", "no row .* has both a file and a label"),
        ("t.jsonl", b'{"file":"a.jpg","label":"x"}\n{"file":"b.j', "line 2 .* is not JSON"),
        ("t.jsonl", b'{"file":"a.jpg","label":"x"}\n7\n', "line 2 .* is not a JSON object"),
        ("t.json", b'[{"file":"a.jpg","label":"x"}]', "is one JSON array; write one row in each line"),
        ("t.jsonl", b'{"file":"a.jpg","label":"x"}\n{"file":"a.jpg","label":["x"]}\n', "label; choose .* file, label"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.xlsx", b"PK", r"should end in \.csv, \.tsv"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(0, 20, 20)))
    with pytest.raises(UserError, match=message) as error:
        opened(text(tmp_path / name, content))
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_a_table_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    for name, message in {
        "no.csv": "there is no table",
        "no/no.parquet": "there is no table",
        "folder.csv": "is a folder",
        "folder.parquet": "is a folder",
        "": "is a folder",
    }.items():
        with pytest.raises(UserError, match=message):
            opened(tmp_path / name)


def test_json_lines_of_mixed_types_are_text(tmp_path: Path) -> None:
    names = photos(tmp_path, 4)
    labels = [7, "7", 2.0, "x"]
    rows: list[Row] = [{"file": name, "label": label} for name, label in zip(names, labels, strict=True)]
    assert [name for _, name in listed(opened(write(tmp_path / "t.jsonl", rows)))] == ["7", "7", "2", "x"]


def test_text_that_looks_like_a_date_stays_text(tmp_path: Path) -> None:
    rows = [{"file": name, "label": "2020-01-01"} for name in photos(tmp_path, 2)]
    assert opened(write(tmp_path / "t.jsonl", rows)).classes == ("2020-01-01",)
