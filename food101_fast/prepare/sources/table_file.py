"""A table of text or Parquet as Arrow columns, whichever of the usual ways it was saved in.

Values of CSV and TSV stay text, so that `007` is not 7. Only columns with one plain value in each row are read: a
Parquet file may have the images themselves in another.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from dataclasses import dataclass
from typing import Any

import orjson

from food101_fast.errors import UserError
from food101_fast.prepare.sources.labels import as_text
from food101_fast.storage import Folder, LocalFolder, open_folder

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_DELIMITERS = ",;\t|"
# A row is in at most two blocks, and no row is nearly as long.
_CSV_BLOCK = 1 << 24
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with at least one row, and the folder that it is in."""

    url: str
    """As a user wrote it."""
    folder: Folder
    """The folder of the table, which paths in it are relative to."""
    columns: Any
    """A `pyarrow.Table` of the columns with plain values."""
    nested: tuple[str, ...]
    """Names of the other columns: lists, records and bytes."""


def read_table(location: str) -> Table:
    """Read a table at a path or URL.

    Raises:
        UserError: it is missing, can't be read, is empty, or has a form that is not known.
    """
    parent, name = os.path.split(location)
    folder = open_folder(parent or ".")
    if isinstance(folder, LocalFolder) and (folder.path / name).is_dir():
        raise UserError(f"{location} is a folder; give table: a file in it")
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        raise UserError(f"the table {location} should end in {', '.join(SUFFIXES)}; save it as one of them")
    import pyarrow

    try:
        if suffix == ".parquet":
            columns, nested = _parquet(folder, name)
        else:
            data = _utf8(folder.read(name), location)
            read = _csv if suffix in (".csv", ".tsv") else _json
            columns, nested = _plain_columns(read(data, location))
    except FileNotFoundError as error:
        raise UserError(f"there is no table {location}; correct the path after table:") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"the table {location} cannot be read ({_first_line(error)}); repair it") from error
    if columns.num_rows == 0:
        raise UserError(f"the table {location} has no rows; give a table with a file and a label in each row")
    return Table(url=location, folder=folder, columns=columns, nested=nested)


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0]


def _parquet(folder: Folder, name: str) -> tuple[Any, tuple[str, ...]]:
    import pyarrow
    import pyarrow.parquet

    # A table with images may be larger than the memory.
    source = folder.path / name if isinstance(folder, LocalFolder) else pyarrow.BufferReader(folder.read(name))
    with pyarrow.parquet.ParquetFile(source) as file:
        nested = tuple(field.name for field in file.schema_arrow if not _is_plain(field.type))
        plain = [field.name for field in file.schema_arrow if _is_plain(field.type)]
        return file.read(columns=plain), nested


def _plain_columns(table: Any) -> tuple[Any, tuple[str, ...]]:
    nested = tuple(field.name for field in table.schema if not _is_plain(field.type))
    return table.drop_columns(list(nested)), nested


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return not (types.is_nested(kind) or binary or types.is_binary_view(kind))


def _utf8(data: bytes, where: str) -> bytes:
    """The text as UTF-8 without a byte order mark."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"the table {where} is not UTF-8 (byte 0x{data[error.start]:02x} in line {line}); save it as UTF-8, such "
            "as with: iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    if not data.strip():
        raise UserError(f"the table {where} is empty; give a table with a file and a label in each row")
    return data


def _csv(data: bytes, where: str) -> Any:
    import pyarrow
    import pyarrow.compute
    import pyarrow.csv

    delimiter, names = _header(data)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the table {where} has several columns {', '.join(twice)}; give each another name")
    read = pyarrow.csv.read_csv(
        pyarrow.BufferReader(data),
        pyarrow.csv.ReadOptions(
            column_names=names, skip_rows_after_names=1, block_size=_CSV_BLOCK, use_threads=False
        ),  # with threads an error would not say which row
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
    )
    if read.num_rows and data.count(b'"') % 2 and "\n" in read.column(names[-1])[-1].as_py():
        raise UserError(
            f'row {read.num_rows} of the table {where} opens a quote (") that is never closed, so that all that '
            "follows would be one value; close it, or double quotes that belong to a value"
        )
    trimmed = [pyarrow.compute.utf8_trim_whitespace(column) for column in read.columns]
    return pyarrow.table(trimmed, names=names)


def _header(data: bytes) -> tuple[str, list[str]]:
    """The delimiter that divides the first row into most columns, and the names there."""
    start = io.StringIO(data[:_HEADER_BYTES].decode(errors="ignore"), newline="")
    rows = {}
    for delimiter in _DELIMITERS:
        start.seek(0)
        rows[delimiter] = next(csv.reader(start, delimiter=delimiter))
    delimiter = max(_DELIMITERS, key=lambda delimiter: len(rows[delimiter]))
    return delimiter, [name.strip() or f"column {number}" for number, name in enumerate(rows[delimiter], 1)]


def _json(data: bytes, where: str) -> Any:
    import pyarrow
    import pyarrow.json

    if data.lstrip().startswith(b"["):
        raise UserError(
            f"the table {where} is one JSON array; write one row in each line, such as with: jq -c '.[]' {where}"
        )
    # One block, since the columns' types are guessed from the first.
    options = pyarrow.json.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1))
    try:
        read = pyarrow.json.read_json(pyarrow.BufferReader(data), options)
        guessed = [field.name for field in read.schema if pyarrow.types.is_timestamp(field.type)]
        if guessed:  # text that looks like a date
            schema = pyarrow.schema([(name, pyarrow.string()) for name in guessed])
            parsing = pyarrow.json.ParseOptions(explicit_schema=schema)
            read = pyarrow.json.read_json(pyarrow.BufferReader(data), options, parsing)
    except pyarrow.ArrowInvalid:
        return _json_lines(data, where)
    return read


def _json_lines(data: bytes, where: str) -> Any:
    """A table with a damaged line, which is named, or with columns of several types, which become text."""
    import pyarrow

    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"line {number} of the table {where} is not JSON ({error}); repair it") from error
        if not isinstance(row, dict):
            raise UserError(f"line {number} of the table {where} is not a JSON object with a value for each column")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> Any:
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        if any(isinstance(value, (list, dict)) for value in values):
            return pyarrow.nulls(len(values), pyarrow.list_(pyarrow.null()))
        return pyarrow.array([as_text(value) for value in values])
