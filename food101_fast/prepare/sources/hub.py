"""`hub:ID`: any image classification data set that `datasets.load_dataset` reads, from the hub or a local folder."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import GivenSplits, SourceOptions, unreadable
from food101_fast.prepare.sources.labels import LABEL_COLUMNS, can_be_label, encode, recognized
from food101_fast.shards.layout import sample_keys
from food101_fast.shards.rejects import NO_IMAGE, NO_LABEL, Reject

_REASON_CHARACTERS = 300


class HubSource:
    """All splits of a data set, joined. Label -1 is the hub's mark for a sample without a label."""

    is_shared = True  # see `Source`

    def __init__(self, name: str, options: SourceOptions | None = None) -> None:
        import datasets  # here, since only this source needs it and it takes long to import

        options = options or SourceOptions()
        parts = _load(name, options)
        try:
            pool = datasets.concatenate_datasets(list(parts.values()))
        except ValueError as error:
            raise UserError(
                f"the splits {', '.join(parts)} of hub:{name} have different columns ({_first_line(error)}); make them "
                "the same"
            ) from error
        self._column = _image_column(name, pool, options)
        label_column = _label_column(name, pool, options)
        images = pool.select_columns([self._column])
        if not isinstance(pool.features[self._column], datasets.Image) or pool.features[self._column].decode:
            images = images.cast_column(self._column, datasets.Image(decode=False))
        self._pool: Any = images
        self.classes, labels = _labels(pool, label_column)
        without_image = self._without_image()
        self._positions = np.flatnonzero((labels >= 0) & ~without_image)
        self.labels = labels[self._positions]
        names = tuple(str(split) for split in parts)
        sizes = [part.num_rows for part in parts.values()]
        numbers = np.repeat(np.arange(len(names)), sizes)
        rows = np.concatenate([np.arange(size) for size in sizes])
        self.splits: GivenSplits | None = GivenSplits(names=names, numbers=numbers[self._positions])
        self.rejects = self._rejects(without_image, label_column, [names[number] for number in numbers], rows)
        self._others: Any = pool.data
        self.fingerprint = self._fingerprint()

    def _paths(self) -> Any:
        import pyarrow.compute

        return pyarrow.compute.struct_field(self._pool.data.column(self._column), "path")

    def _without_image(self) -> NDArray[np.bool_]:
        import pyarrow.compute

        column = self._pool.data.column(self._column)
        fields = [pyarrow.compute.struct_field(column, field) for field in ("bytes", "path")]
        missing: NDArray[np.bool_] = np.logical_and(*(field.is_null().to_numpy() for field in fields))
        return missing

    def _rejects(
        self, without_image: NDArray[np.bool_], label: str, splits: Sequence[str], rows: NDArray[np.int64]
    ) -> tuple[Reject, ...]:
        """Every row that has no image or no label; rows are counted from 0 in each split, as the hub's viewer does."""
        used = np.zeros(without_image.size, bool)
        used[self._positions] = True
        left_out = np.flatnonzero(~used).tolist()
        files = self._paths().take(left_out).to_pylist() if left_out else []
        keys = sample_keys(
            (NO_LABEL, NO_IMAGE),
            without_image[left_out].astype(np.int64),
            [Path(file).stem if file else f"{row:08d}" for file, row in zip(files, left_out, strict=True)],
        )
        rejects = []
        for key, file, row in zip(keys, files, left_out, strict=True):
            position = f"row {rows[row]} of split {splits[row]}"
            reason, lacks = (
                (NO_IMAGE, f"image in {self._column}") if without_image[row] else (NO_LABEL, f"label in {label}")
            )
            detail = f"{position} has no {lacks}"
            rejects.append(Reject(key=key, file=str(file or position), reason=reason, detail=detail))
        return tuple(rejects)

    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_64("\0".join(self.classes).encode())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without what only the plan needs: worker processes read files."""
        return {**self.__dict__, "_others": None, "rejects": (), "splits": None}

    @property
    def names(self) -> list[str]:
        """The images' file names without suffix; the number of the row where the data set has no file name."""
        paths = self._paths().to_pylist()
        return [Path(paths[row]).stem if paths[row] else f"{row:08d}" for row in self._positions.tolist()]

    def file(self, position: int) -> str:
        """The image's path in the data set, or its row."""
        row = int(self._positions[position])
        return str(self._pool[row][self._column]["path"] or f"row {row}")

    @property
    def column_names(self) -> tuple[str, ...]:
        """The other columns; none in worker processes."""
        return () if self._others is None else tuple(self._others.column_names)

    def column(self, name: str) -> Sequence[object] | None:
        """The values of a column with one plain value in each row; None in worker processes."""
        if self._others is None or name not in self._others.column_names:
            return None
        column = self._others.column(name)
        if not can_be_label(column.type):
            return None
        return [None if value == "" else value for value in column.take(self._positions).to_pylist()]

    def read(self, position: int) -> bytes:
        """The bytes of an image file.

        Raises:
            UserError: it can't be read.
        """
        image = self._pool[int(self._positions[position])][self._column]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise unreadable(image["path"], error) from error


def _load(name: str, options: SourceOptions) -> dict[str, Any]:
    """The splits of a data set by their names."""
    import datasets

    path = Path(name)
    if options.revision is not None and path.exists():
        raise UserError(f"--revision is for data sets on the hub, and {name} is a local folder; leave it out")
    try:
        if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(name)  # written by save_to_disk
        elif path.is_file() and path.suffix == ".parquet":
            found = datasets.load_dataset("parquet", data_files=name)
        else:
            found = datasets.load_dataset(name, options.config, revision=options.revision)
    except Exception as error:  # the library raises many kinds for a wrong name, no network or bad files
        configs = _configs(name, options) if isinstance(error, ValueError) else []
        if configs and options.config not in configs:
            raise UserError(
                f"hub:{name} has the configurations {', '.join(configs)}; choose one of them with --config"
            ) from error
        local = "" if path.exists() else f" (there is no local folder or file {name})"
        raise UserError(
            f"datasets.load_dataset({name!r}) failed ({_reason(error)}); check the name and the network, or give a "
            f"local folder that it can read{local}"
        ) from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _configs(name: str, options: SourceOptions) -> list[str]:
    import datasets

    try:
        return [str(config) for config in datasets.get_dataset_config_names(name, revision=options.revision)]
    except Exception:  # then the first error says more
        return []


def _image_column(name: str, pool: Any, options: SourceOptions) -> str:
    import datasets

    images = [column for column, kind in pool.features.items() if isinstance(kind, datasets.Image)]
    embedded = [field.name for field in pool.data.schema if _has_bytes(field.type)]
    if options.image_column is not None:
        _check_column(name, pool, "image", options.image_column, options.image_column in images + embedded)
        return options.image_column
    if "__key__" in pool.features and options.label_column is None:
        raise UserError(
            f"hub:{name} is in WebDataset form (columns {', '.join(pool.features)}); download its tars and run `python "
            "-m food101_fast.shards index` on them, or give --image-column and --label-column"
        )
    return _only(name, pool, "image", images or embedded)


def _has_bytes(kind: Any) -> bool:
    """Whether an Arrow type is bytes, or a record with a field for them, as the hub stores images."""
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 and _has_bytes(kind.field("bytes").type))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _label_column(name: str, pool: Any, options: SourceOptions) -> str:
    import datasets

    able = [field.name for field in pool.data.schema if can_be_label(field.type)]
    if options.label_column is not None:
        _check_column(name, pool, "label", options.label_column, options.label_column in able)
        return options.label_column
    labels = [column for column, kind in pool.features.items() if isinstance(kind, datasets.ClassLabel)]
    return _only(name, pool, "label", labels or recognized(able, LABEL_COLUMNS))


def _check_column(name: str, pool: Any, what: str, column: str, usable: bool) -> None:
    if column not in pool.features:
        raise UserError(
            f"hub:{name} has no column {column}; correct --{what}-column: it has {', '.join(pool.features)}"
        )
    if not usable:
        raise UserError(
            f"column {column} of hub:{name} can't be the {what} (it is {pool.features[column]}); correct "
            f"--{what}-column: it has {', '.join(pool.features)}"
        )


def _only(name: str, pool: Any, what: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        raise UserError(
            f"hub:{name} has several columns that may be the {what}: {', '.join(found)}; choose with --{what}-column"
        )
    if not found:
        cast = "; cast a column of paths with cast_column(NAME, datasets.Image())" if what == "image" else ""
        raise UserError(
            f"no column of hub:{name} is known to be the {what}; choose with --{what}-column if there is one: it has "
            f"{', '.join(pool.features)}{cast}"
        )
    return found[0]


def _labels(pool: Any, column: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and an int64 label for each row, -1 for none."""
    import datasets
    import pyarrow.compute

    values = pool.data.column(column)
    kind = pool.features[column]
    if isinstance(kind, datasets.ClassLabel):
        classes = tuple(kind.names)
        labels = values.fill_null(-1).to_numpy().astype(np.int64)
        return classes, np.where(labels < len(classes), labels, -1)
    if pyarrow.types.is_integer(values.type):
        values = pyarrow.compute.if_else(pyarrow.compute.equal(values, -1), None, values)
    return encode(values)


def _reason(error: BaseException) -> str:
    """Why `load_dataset` failed. Its own sentence is empty when a file can't be read, and the cause says it."""
    import datasets

    if not isinstance(error, datasets.exceptions.DatasetGenerationError) or error.__cause__ is None:
        return _first_line(error)
    cause = error.__cause__
    return f"{type(cause).__name__}: {textwrap.shorten(str(cause), _REASON_CHARACTERS, placeholder=' ...')}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")
