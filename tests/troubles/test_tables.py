"""Tables of files and labels: read as they were saved, nothing guessed, nothing lost without a line about it.

Reports: fastai/fastai#1008 and sdv-dev/SDV#2780 (leading zeros lost), UKGovernmentBEIS/inspect_ai#301 (a byte order
mark in the first column's name), ludwig-ai/ludwig#113 (not UTF-8), yhenon/pytorch-retinanet#226 (paths relative to
something else), ieee8023/covid-chestxray-dataset#96 (names without suffix), fastai/fastai#894 and
ml-hongkong/hongkong_flowers#7 (rows whose file is missing), huggingface/datasets#4311 (metadata that does not match).
"""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.images import RejectedError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.sources import SourceOptions, open_source
from food101_fast.prepare.sources import table as table_module
from food101_fast.prepare.sources.labels import encode
from food101_fast.prepare.sources.table import TableSource
from tests.conftest import encoded, picture

FRACTIONS = (0.5, 0.25, 0.25)
Row = dict[str, Any]


def photos(folder: Path, count: int = 12) -> list[str]:
    """Different small pictures `img/0.jpg`, `img/1.jpg` ...; their names."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    names = [f"img/{i}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(encoded(picture(i, 20, 20)))
    return names


def write(path: Path, rows: list[Row], delimiter: str = ",") -> Path:
    """A table in the form that the suffix of `path` says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    else:
        lines = [list(rows[0]), *([str(row[name]) for name in rows[0]] for row in rows)]
        path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(table: Path | str, **columns: str) -> TableSource:
    source = open_source(f"table:{table}", SourceOptions(columns=columns))
    assert isinstance(source, TableSource)
    return source


def listed(source: TableSource) -> list[tuple[str, str]]:
    """File and class of each image."""
    files = [source.file(position) for position in range(source.labels.size)]
    return [(file, source.classes[label]) for file, label in zip(files, source.labels, strict=True)]


def prepared(folder: Path, table: Path | str, **settings: Any) -> Counter[str]:
    """Keys of the samples of all splits after `prepare`."""
    settings = {"size": 16, "fractions": FRACTIONS, "workers": 1, **settings}
    prepare(PrepareSettings(source=f"table:{table}", out=folder, **settings))
    keys: Counter[str] = Counter()
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys.update(name.removesuffix(".cls") for name in tar.getnames() if name.endswith(".cls"))
    return keys


EXPECTED = Counter(f"{'pizza' if i % 2 else 'apple_pie'}/{i}" for i in range(12))


def rows_of(names: list[str], file: str = "file", label: str = "label") -> list[Row]:
    return [{file: name, label: "pizza" if i % 2 else "apple pie"} for i, name in enumerate(names)]


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


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder over HTTP.

    Answers with an error as often as `failures` says for a path, and knows it only as often as `lives` says.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.failures: Counter[str] = Counter()
        self.lives: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.failures[self.path] > 0:
            self.server.failures[self.path] -= 1
            self.send_error(503)
        elif self.server.lives.get(self.path, 1) == 0:
            self.send_error(404)
        else:
            if self.path in self.server.lives:
                self.server.lives[self.path] -= 1
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_downloaded(tmp_path: Path, server: Server) -> None:
    names = photos(tmp_path)
    os.rename(tmp_path / names[0], tmp_path / "img" / "0 é.jpg")
    urls = [f"{server.url}/img/0 é.jpg", f"{server.url}/{names[1]}?size=full/1"]
    urls += [f"{server.url}/{name}" for name in names[2:11]] + [names[11]]  # and one on the disk
    table = write(tmp_path / "t.csv", rows_of(urls, file="url"))
    assert prepared(tmp_path / "out", table) == EXPECTED - Counter(["apple_pie/0"]) + Counter(["apple_pie/0_e"])


def test_a_table_may_be_behind_a_url(tmp_path: Path, server: Server) -> None:
    write(tmp_path / "t.jsonl", rows_of(photos(tmp_path)))
    assert prepared(tmp_path / "out", f"{server.url}/t.jsonl") == EXPECTED


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_dead_url_is_listed(tmp_path: Path, server: Server, duplicates: str) -> None:
    urls = [f"{server.url}/{name}" for name in photos(tmp_path, 13)]
    os.remove(tmp_path / "img" / "12.jpg")
    table = write(tmp_path / "t.csv", rows_of(urls))
    assert prepared(tmp_path / "out", table, duplicates=duplicates, fractions=(1, 0, 0)) == EXPECTED
    rejects = [orjson.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [(reject["reason"], reject["file"]) for reject in rejects] == [("missing-file", urls[12])]
    assert orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())["read"] == 13


def test_a_url_that_goes_away_meanwhile_is_an_error(tmp_path: Path, server: Server) -> None:
    urls = [f"{server.url}/{name}" for name in photos(tmp_path)]
    server.lives["/img/5.jpg"] = 1
    with pytest.raises(UserError, match="pizza/5 of the source changed while prepare was reading it"):
        prepared(tmp_path / "out", write(tmp_path / "t.csv", rows_of(urls)))


def test_a_table_in_a_bucket_names_files_there(tmp_path: Path) -> None:
    bucket = fsspec.filesystem("memory")
    for name in photos(tmp_path, 3):
        bucket.pipe(f"/tables/{name}", (tmp_path / name).read_bytes())
    rows = rows_of(["img/0.jpg", "memory://tables/img/1.jpg", str(tmp_path / "img" / "2.jpg"), "img/gone.jpg"])
    bucket.pipe("/tables/t.csv", write(tmp_path / "t.csv", rows).read_bytes())
    source = opened("memory://tables/t.csv")
    for position in range(3):
        assert source.read(position) == (tmp_path / "img" / f"{position}.jpg").read_bytes()
    with pytest.raises(RejectedError, match=r"missing-file: nothing is at memory://tables/img/gone\.jpg"):
        source.read(3)


def test_a_server_that_fails_is_asked_again(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_PAUSE_SECONDS", 0)
    urls = [f"{server.url}/{name}" for name in photos(tmp_path, 2)]
    source = opened(write(tmp_path / "t.csv", rows_of(urls)))
    server.failures["/img/0.jpg"] = 2
    assert source.read(0) == (tmp_path / "img" / "0.jpg").read_bytes()
    server.failures["/img/1.jpg"] = 3
    with pytest.raises(UserError, match=r"img/1\.jpg could not be downloaded in 3 attempts .*503"):
        source.read(1)


def test_an_unknown_protocol_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nosuch://host can't be opened"):
        opened(write(tmp_path / "t.csv", rows_of(["nosuch://host/0.jpg"])))
