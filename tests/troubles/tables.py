"""Tables of photographs that the tests of `table:` share."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.sources import SourceOptions, open_source
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
