"""Where images come from: a hub data set, a folder of class folders, or pictures drawn on the spot.

A source lists labels and names at once and reads one image file's bytes at a time, so that worker processes can each
read their own part and nobody ever holds more than one image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare import demo
from food101_fast.storage import Folder, open_folder

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Source(Protocol):
    """A list of labelled image files. Instances are picklable, since worker processes read from them.

    Attributes:
        classes: class names.
        labels: (N,) int64 label of each file.
        fingerprint: 16 hexadecimal digits that change with what is listed.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    fingerprint: str

    @property
    def names(self) -> list[str]:
        """N names, for people; not necessarily unique."""
        ...

    def file(self, position: int) -> str:
        """What file `position` is called where it lies, so that it can be found there."""
        ...

    def read(self, position: int) -> bytes:
        """The bytes of file `position`.

        Raises:
            UserError: the file can't be read.
        """
        ...


def open_source(text: str, *, seed: int = 0) -> Source:
    """The source that `--source` names.

    Args:
        text: `hub:ID`, `folder:PLACE` or `demo:`.
        seed: only `demo:` uses it, to draw other pictures.

    Raises:
        UserError: the kind is unknown, nothing is there, or it holds no classes.
    """
    kind, colon, place = text.partition(":")
    if kind == "hub" and place:
        return HubSource(place)
    if kind == "folder" and place:
        return FolderSource(open_folder(place))
    if kind == "demo" and colon and not place:
        return DemoSource(seed)
    raise UserError(
        f"unknown source {text!r}; give hub:ID (such as hub:ethz/food101), folder:PLACE with one folder per class, "
        "or demo:"
    )


class FolderSource:
    """`folder:PLACE`: one folder per class; every file below it, other than hidden ones, is taken for an image.

    The place is a path, or a URL of any kind that fsspec knows.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        files = _list_files(folder)
        folders = [name for name in folder.subfolders() if not name.startswith(".")]
        if not folders:
            raise UserError(
                f"{folder.url} has no class folders; put each class's images into a folder of its own there"
            )
        if all(name.lower() in _SPLIT_NAMES for name in folders):
            raise UserError(
                f"the folders of {folder.url} are splits, not classes; give one of them, such as "
                f"folder:{folder.url}/{folders[0]}, or merge them first: prepare makes its own splits"
            )
        self.classes = tuple(folders)
        self._files = [name for name in files if "/" in name and not any(p.startswith(".") for p in name.split("/"))]
        place = {name: label for label, name in enumerate(folders)}
        self.labels = np.array([place[name.partition("/")[0]] for name in self._files], np.int64)
        counts = np.bincount(self.labels, minlength=len(folders))
        if not counts.all():
            empty = folders[int(counts.argmin())]
            raise UserError(f"the class folder {folder.url}/{empty} is empty; add images or remove it")
        digest = xxhash.xxh3_64()
        for name in self._files:
            digest.update(f"{name}\0{files[name]}\0".encode())
        self.fingerprint = digest.hexdigest()

    @property
    def names(self) -> list[str]:
        return [file.partition("/")[2].rpartition(".")[0] or file.partition("/")[2] for file in self._files]

    def file(self, position: int) -> str:
        return self._files[position]

    def read(self, position: int) -> bytes:
        name = self._files[position]
        try:
            return self.folder.read(name)
        except OSError as error:
            raise _unreadable(f"{self.folder.url}/{name}", error) from error


def _list_files(folder: Folder) -> dict[str, int]:
    try:
        files = folder.files()
        if not files and not folder.exists():
            raise UserError(f"there is no folder {folder.url}; give folder:PLACE with one folder of images per class")
        return files
    except OSError as error:
        raise UserError(
            f"the folder {folder.url} cannot be listed ({error.strerror or error}); make it readable"
        ) from error


def _unreadable(name: str, error: OSError) -> UserError:
    return UserError(f"the image {name} cannot be read ({error.strerror or error}); make it readable or remove it")


class HubSource:
    """`hub:ID`: any image classification data set that `datasets.load_dataset` reads, from the hub or a local folder.

    The hub's own splits are joined into one pool. Samples labelled -1, the hub's mark for unlabelled ones, are left
    out.
    """

    def __init__(self, name: str) -> None:
        import datasets  # here, since only this source needs it and it takes long to import

        try:
            splits = datasets.load_dataset(name)
        except Exception as error:  # the library raises many kinds for a wrong name, no network or bad files
            raise UserError(
                f"datasets.load_dataset({name!r}) failed ({_first_line(error)}); check the name and the network, "
                "or give a local folder that it can read"
            ) from error
        pool = datasets.concatenate_datasets([splits[split] for split in splits])
        image_columns = [c for c, kind in pool.features.items() if isinstance(kind, datasets.Image)]
        label_columns = [c for c, kind in pool.features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(image_columns) != 1 or len(label_columns) != 1:
            raise UserError(
                f"hub:{name} should have one image column and one class label column and has the columns "
                f"{dict(pool.features)}; choose an image classification data set"
            )
        self._column = image_columns[0]
        self.classes = tuple(pool.features[label_columns[0]].names)
        labels = pool.data.column(label_columns[0]).to_numpy()
        self._positions = np.flatnonzero(labels >= 0)
        self.labels = labels[self._positions].astype(np.int64)
        self._pool: Any = pool.select_columns([self._column]).cast_column(self._column, datasets.Image(decode=False))
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_64("\0".join(self.classes).encode())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()

    @property
    def names(self) -> list[str]:
        import pyarrow.compute

        paths = pyarrow.compute.struct_field(self._pool.data.column(self._column), "path").to_pylist()
        return [Path(paths[row]).stem if paths[row] else f"{row:08d}" for row in self._positions.tolist()]

    def file(self, position: int) -> str:
        row = int(self._positions[position])
        return str(self._pool[row][self._column]["path"] or f"row {row}")

    def read(self, position: int) -> bytes:
        image = self._pool[int(self._positions[position])][self._column]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise _unreadable(image["path"], error) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


class DemoSource:
    """`demo:`: small pictures drawn on the spot, and three files that are corrupt on purpose."""

    images_per_class = 100

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._corrupt = demo.corrupt_files()
        self.classes = demo.CLASSES
        drawn = np.repeat(np.arange(len(demo.CLASSES)), self.images_per_class)
        self.labels = np.concatenate([drawn, [label for _, label, _ in self._corrupt]]).astype(np.int64)
        self.names = [f"{position % self.images_per_class:04d}" for position in range(drawn.size)]
        self.names += [Path(name).stem for name, _, _ in self._corrupt]
        self.fingerprint = xxhash.xxh3_64_hexdigest(f"demo {seed} {demo.VERSION} {self.labels.size}".encode())

    def file(self, position: int) -> str:
        return f"{self.classes[self.labels[position]]}/{self.names[position]}"

    def read(self, position: int) -> bytes:
        drawn = self.labels.size - len(self._corrupt)
        if position >= drawn:
            return self._corrupt[position - drawn][2]
        picture = self._seed * self.images_per_class + position % self.images_per_class
        return demo.draw(int(self.labels[position]), picture)
