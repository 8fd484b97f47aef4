"""`folder:PATH`: one folder of images per class, perhaps inside of split folders, on a disk or in a bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import GivenSplits, unreadable
from food101_fast.prepare.sources.split_folders import find_split_folders, is_image_name
from food101_fast.resources import machine_advice
from food101_fast.shards.rejects import NO_LABEL, Reject
from food101_fast.storage import Folder


class FolderSource:
    """One folder per class, or split folders that have one. Every file in a class folder is taken for an image."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        sizes = _list_files(folder)
        visible = [name for name in sizes if not any(word.startswith(".") for word in name.split("/"))]
        split_folders = find_split_folders(visible, folder.url)
        prefixes = ["", *(split_folders or ())]
        homes = {file: max((prefix for prefix in prefixes if file.startswith(prefix)), key=len) for file in visible}
        self._files = [
            file for file in visible if "/" in file[len(homes[file]) :] and (homes[file] or not split_folders)
        ]
        self._home_lengths = [len(homes[file]) for file in self._files]
        folders = [
            file[length:].partition("/")[0] for file, length in zip(self._files, self._home_lengths, strict=True)
        ]
        if not split_folders:
            _refuse_odd_folders(folder, set(folders), visible)
        self.classes = tuple(sorted(set(folders)))
        label_of = {name: label for label, name in enumerate(self.classes)}
        self.labels = np.array([label_of[name] for name in folders], np.int64)
        self.splits: GivenSplits | None = None
        if split_folders:
            numbers = {prefix: number for number, prefix in enumerate(split_folders)}
            of_files = np.array([numbers[homes[file]] for file in self._files], np.int64)
            self.splits = GivenSplits(names=tuple(split_folders.values()), numbers=of_files)
        outside = sorted(set(visible).difference(self._files))
        unlabeled = [file for file in outside if is_image_name(file)]
        detail = "the image is in no class folder"
        self.rejects = tuple(Reject(key=file, file=file, reason=NO_LABEL, detail=detail) for file in unlabeled)
        self.fingerprint = _fingerprint([*self._files, *unlabeled], sizes)

    @property
    def names(self) -> list[str]:
        """Paths of the files below their class folder, without suffix."""
        below = [file[n:].partition("/")[2] for file, n in zip(self._files, self._home_lengths, strict=True)]
        return [path.rpartition(".")[0] or path for path in below]

    def file(self, position: int) -> str:
        """The path of a file below the folder."""
        return self._files[position]

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the folder."""
        return self.folder.is_shared

    @property
    def column_names(self) -> tuple[str, ...]:
        """None: there are no columns."""
        return ()

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


def _fingerprint(files: Sequence[str], sizes: Mapping[str, int]) -> str:
    digest = xxhash.xxh3_64()
    for name in files:
        digest.update(f"{name}\0{sizes[name]}\0".encode())
    return digest.hexdigest()


def _refuse_odd_folders(folder: Folder, classes: set[str], files: Sequence[str]) -> None:
    """Refuse class folders that are missing or empty, and a single one."""
    folders = [name for name in folder.subfolders() if not name.startswith(".")]
    if not folders:
        tables = [name for name in files if name.lower().endswith((".csv", ".tsv", ".jsonl", ".parquet"))]
        table = f", or give its table: --source table:{folder.url}/{tables[0]}" if tables else ""
        raise UserError(
            f"{folder.url} has no class folders; put each class's images into a folder of its own there{table}"
        )
    if empty := sorted(set(folders) - classes):
        raise UserError(f"the class folder {folder.url}/{empty[0]} is empty; add images or remove it")
    if len(folders) == 1:
        only = f"{folders[0]}/"
        inside = {
            file[len(only) :].partition("/")[0] for file in files if file.startswith(only) and "/" in file[len(only) :]
        }
        hint = f"; give --source folder:{folder.url}/{folders[0]} if its {len(inside)} folders are the classes"
        raise UserError(
            f"{folder.url} has one class folder only, {folders[0]}, and a classifier needs two or more classes"
            f"{hint if len(inside) > 1 else ''}"
        )


def _list_files(folder: Folder) -> dict[str, int]:
    try:
        files = folder.files()
        if not files and not folder.exists():
            raise UserError(f"there is no folder {folder.url}; give folder:PATH with one folder of images per class")
        return files
    except OSError as error:
        advice = machine_advice(error) or "make it readable"
        raise UserError(f"the folder {folder.url} cannot be listed ({error.strerror or error}); {advice}") from error
