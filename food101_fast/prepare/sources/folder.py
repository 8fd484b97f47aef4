"""`folder:PATH`: a folder with one folder of images per class, on a disk or in a bucket."""

from __future__ import annotations

import numpy as np
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import GivenSplits, unreadable
from food101_fast.shards.rejects import Reject
from food101_fast.storage import Folder

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class FolderSource:
    """One folder per class. Every file below it, other than hidden ones, is taken for an image."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.splits: GivenSplits | None = None
        self.rejects: tuple[Reject, ...] = ()
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
        labels = {name: label for label, name in enumerate(folders)}
        self.labels = np.array([labels[name.partition("/")[0]] for name in self._files], np.int64)
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
        """Paths of the files below their class folder, without suffix."""
        return [file.partition("/")[2].rpartition(".")[0] or file.partition("/")[2] for file in self._files]

    def file(self, position: int) -> str:
        """The path of a file below the folder."""
        return self._files[position]

    def column(self, name: str) -> None:
        """None: a folder has no columns."""

    def read(self, position: int) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: it can't be read.
        """
        name = self._files[position]
        try:
            return self.folder.read(name)
        except OSError as error:
            raise unreadable(f"{self.folder.url}/{name}", error) from error


def _list_files(folder: Folder) -> dict[str, int]:
    try:
        files = folder.files()
        if not files and not folder.exists():
            raise UserError(f"there is no folder {folder.url}; give folder:PATH with one folder of images per class")
        return files
    except OSError as error:
        raise UserError(
            f"the folder {folder.url} cannot be listed ({error.strerror or error}); make it readable"
        ) from error
