"""`table:FILE`: a CSV, TSV, JSON Lines or Parquet file with a file name and a label in each row."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.images import RejectedError
from food101_fast.prepare.sources.base import GivenSplits, unreadable
from food101_fast.prepare.sources.labels import LABEL_COLUMNS, can_be_label, encode, is_text, recognized
from food101_fast.prepare.sources.table_file import Table, read_table
from food101_fast.shards.layout import sample_keys
from food101_fast.shards.rejects import NO_IMAGE, NO_LABEL, Reject
from food101_fast.storage import LocalFolder, open_folder

MISSING_FILE: Literal["missing-file"] = "missing-file"

FILE_COLUMNS = ("file", "file_name", "filename", "filepath", "file_path", "path", "image", "image_path", "img", "url")
SPLIT_COLUMNS = ("split", "subset", "partition")
_MEANINGS = ("file", "label", "split", "group")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG")
_MISSING, _UNKNOWN = -1, -2
_NAMED = 3
_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which column of a table says what."""

    file: str
    label: str
    split: str | None
    group: str | None


class TableSource:
    """One image for each row of a table. Files are paths relative to the table's folder, absolute paths, or URLs.

    A file that two rows name is listed twice; like other identical files it is then a duplicate.
    """

    def __init__(self, location: str, columns: Mapping[str, str] | None = None) -> None:
        table = read_table(location)
        self._chosen = _choose(table, _separate(columns or {}))
        self.classes, labels = encode(table.columns.column(self._chosen.label))
        self._folder = table.folder
        files, sizes = _locate(table, _files(table, self._chosen.file))
        reasons = np.full(labels.size, "", object)
        reasons[labels < 0] = NO_LABEL
        reasons[sizes == _MISSING] = MISSING_FILE
        reasons[files.is_null().to_numpy(zero_copy_only=False)] = NO_IMAGE
        rows = np.flatnonzero(reasons == "")
        if not rows.size:
            raise UserError(
                f"no row of the table {location} has both a file and a label (columns {self._chosen.file}, "
                f"{self._chosen.label}); choose others with --columns file=NAME label=NAME"
            )
        self.rejects = _rejects(files, reasons)
        self.labels = labels[rows]
        self._files = files.take(rows)
        self._table: Any = table.columns.filter(reasons == "")
        self.splits: GivenSplits | None = None
        if self._chosen.split is not None:
            names, numbers = encode(self._table.column(self._chosen.split))
            self.splits = GivenSplits(names=names, numbers=numbers)
        self.fingerprint = self._fingerprint(sizes[rows])

    def _fingerprint(self, sizes: NDArray[np.int64]) -> str:
        digest = xxhash.xxh3_64("\0".join(self.classes).encode())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self._files.to_pylist()).encode())
        digest.update(sizes.tobytes())
        for name in (self._chosen.split, self._chosen.group):
            if name is not None:
                digest.update("\0".join(map(str, self._table.column(name).to_pylist())).encode())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without what only the plan needs: worker processes read files."""
        return {**self.__dict__, "_table": None, "rejects": (), "splits": None}

    @property
    def names(self) -> list[str]:
        """The files' names without folder and suffix."""
        return [_stem(file) for file in self._files.to_pylist()]

    def file(self, position: int) -> str:
        """The file as the table names it."""
        return str(self._files[position].as_py())

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the table's folder."""
        return self._folder.is_shared

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of the table; none in worker processes."""
        return () if self._table is None else tuple(self._table.column_names)

    def column(self, name: str) -> Sequence[object] | None:
        """The values of a column, or of the one that `--columns group=` names; None in worker processes."""
        if name == "group" and self._chosen.group is not None:
            name = self._chosen.group
        if self._table is None or name not in self._table.column_names:
            return None
        return [None if value == "" else value for value in self._table.column(name).to_pylist()]

    def read(self, position: int) -> bytes:
        """The bytes of a file.

        Raises:
            RejectedError: nothing is at the URL.
            UserError: it can't be read.
        """
        name = self.file(position)
        if _URL.match(name):
            return _download(name)
        folder = LocalFolder(Path(os.sep)) if os.path.isabs(name) else self._folder
        if not isinstance(folder, LocalFolder):
            return _download(f"{folder.url}/{name}")
        try:
            return folder.read(name)
        except OSError as error:
            raise unreadable(os.path.join(folder.url, name), error) from error


def _separate(columns: Mapping[str, str]) -> dict[str, str]:
    """Columns by their meaning, also where they were written with commas, as file=path,label=category."""
    texts = [f"{meaning}={name}" for meaning, name in columns.items()]
    several = [part for text in texts for part in re.split(rf",(?=(?:{'|'.join(_MEANINGS)})=)", text)]
    return {meaning: name for meaning, _, name in (text.partition("=") for text in several)}


def _choose(table: Table, given: Mapping[str, str]) -> _Columns:
    names = table.columns.column_names
    has = f"it has the columns {', '.join([*names, *table.nested])}"
    for meaning, name in given.items():
        if meaning not in _MEANINGS:
            raise UserError(f"--columns {meaning}={name} should begin with one of {'=, '.join(_MEANINGS)}=; correct it")
        if name in table.nested:
            raise UserError(
                f"column {name} of the table {table.url} has bytes, a list or a record in each row, and --columns "
                f"{meaning}= needs one value; give another column: {has}"
            )
        if name not in names:
            raise UserError(f"the table {table.url} has no column {name}; correct --columns {meaning}=: {has}")
    embedded = recognized(table.nested, FILE_COLUMNS)
    if embedded and "file" not in given:
        raise UserError(
            f"column {embedded[0]} of the table {table.url} has the images themselves, not their paths; give "
            f"hub:{table.url}, or another column with --columns file=NAME"
        )
    chosen = {
        meaning: given.get(meaning) or _only(table.url, meaning, recognized(names, known), has)
        for meaning, known in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS))
    }
    splits = [name for known in SPLIT_COLUMNS for name in recognized(names, [known])]
    split = given.get("split") or next(iter(splits), None)
    for meaning, name in [*chosen.items(), *([("split", split)] if split else [])]:
        kind = table.columns.schema.field(name).type
        if not can_be_label(kind):
            raise UserError(
                f"column {name} of the table {table.url} has values of type {kind}, and a {meaning} is text or a "
                f"number; give another column with --columns {meaning}=NAME"
            )
    return _Columns(file=chosen["file"], label=chosen["label"], split=split, group=given.get("group"))


def _only(url: str, meaning: str, found: Sequence[str], has: str) -> str:
    if len(found) > 1:
        raise UserError(
            f"the table {url} has several columns that may be the {meaning}: {', '.join(found)}; choose with --columns "
            f"{meaning}=NAME"
        )
    if not found:
        raise UserError(
            f"no column of the table {url} is known to be the {meaning}; choose with --columns {meaning}=NAME, or add "
            f"a first line with names if there is none: {has}"
        )
    return found[0]


def _files(table: Table, name: str) -> list[str | None]:
    """The file of each row as the table names it; None where it names none."""
    import pyarrow

    column = table.columns.column(name)
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (is_text(column.type) or pyarrow.types.is_null(column.type)):
        raise UserError(
            f"column {name} of the table {table.url} has values of type {column.type}, not names of files; choose "
            "another with --columns file=NAME"
        )
    return [name.strip() or None if name else None for name in column.to_pylist()]


def _locate(table: Table, names: list[str | None]) -> tuple[Any, NDArray[np.int64]]:
    """Look for every file on a disk.

    Returns:
        An Arrow array of the names, with slashes for backslashes where only that is found, and an int64 size in bytes
        for each: `_MISSING` for no such file, `_UNKNOWN` for what is not on a disk.
    """
    import pyarrow

    sizes = np.full(len(names), _UNKNOWN, np.int64)
    missing: list[str] = []
    looked = 0
    base = table.folder.path if isinstance(table.folder, LocalFolder) else None
    for row, name in enumerate(names):
        if name is None or _URL.match(name) or (base is None and not os.path.isabs(name)):
            continue
        looked += 1
        sizes[row] = _size(base, name)
        if sizes[row] == _MISSING and "\\" in name:
            sizes[row] = _size(base, name.replace("\\", "/"))
            if sizes[row] != _MISSING:
                names[row] = name.replace("\\", "/")
        if sizes[row] == _MISSING:
            missing.append(os.path.join(base or "", name))
    if 2 * len(missing) > looked:
        raise _most_missing(table, missing, looked)
    _check_protocols(names)
    return pyarrow.array(names, pyarrow.large_string()), sizes


def _size(base: Path | None, name: str) -> int:
    try:
        status = os.stat(os.path.join(base or "", name))
    except (OSError, ValueError):  # too long a name, or a null character in it
        return _MISSING
    return status.st_size if stat.S_ISREG(status.st_mode) else _MISSING


def _most_missing(table: Table, missing: Sequence[str], looked: int) -> UserError:
    first = ", ".join(missing[:_NAMED])
    advice = "paths are relative to the table's folder: correct them, or remove the rows that have no file"
    suffix = next((suffix for suffix in _IMAGE_SUFFIXES if os.path.isfile(missing[0] + suffix)), None)
    if suffix is not None:
        advice = f"with {suffix} the first exists: write the suffix into the table"
    return UserError(
        f"{len(missing):,} of the {looked:,} files that the table {table.url} names do not exist, such as {first}; "
        f"{advice}"
    )


def _check_protocols(names: Sequence[str | None]) -> None:
    """Open one URL of each protocol, so that one that is not known is refused before anything is read."""
    seen: set[str] = set()
    for name in names:
        if name is not None and _URL.match(name) and (protocol := name.partition("://")[0]) not in seen:
            seen.add(protocol)
            open_folder(name.rpartition("/")[0])


def _rejects(files: Any, reasons: NDArray[np.object_]) -> tuple[Reject, ...]:
    rows = np.flatnonzero(reasons != "").tolist()
    details = {NO_LABEL: "has no label", NO_IMAGE: "names no file", MISSING_FILE: "names a file that does not exist"}
    kinds = tuple(details)
    names = [files[row].as_py() for row in rows]
    keys = sample_keys(
        kinds,
        np.array([kinds.index(reasons[row]) for row in rows], np.int64),
        [f"{row + 1:08d}" if name is None else _stem(name) for row, name in zip(rows, names, strict=True)],
    )
    return tuple(
        Reject(
            key=key,
            file=f"row {row + 1}" if name is None else name,
            reason=reasons[row],
            detail=f"row {row + 1} {details[reasons[row]]}",
        )
        for key, row, name in zip(keys, rows, names, strict=True)
    )


def _stem(file: str) -> str:
    if _URL.match(file):
        file = file.partition("?")[0]
    name = file.rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _download(url: str) -> bytes:
    parent, _, name = url.rpartition("/")
    for attempt in range(_ATTEMPTS):
        try:
            return open_folder(parent).read(name)
        except FileNotFoundError as error:
            raise RejectedError(MISSING_FILE, f"nothing is at {url}") from error
        except OSError as error:
            reason = error.strerror or str(error)
        if attempt + 1 < _ATTEMPTS:
            time.sleep(_PAUSE_SECONDS)
    raise UserError(
        f"the image {url} could not be downloaded in {_ATTEMPTS} attempts ({reason}); check the connection and run "
        "again, or remove its row from the table"
    )
