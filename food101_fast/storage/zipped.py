"""A folder in a zip file, for reading."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from food101_fast.errors import UserError
from food101_fast.storage.folder import Content
from food101_fast.storage.names import readable

SUFFIX = ".zip"
_OF_MACOS = "__MACOSX/"  # macOS puts attributes of files there


class ZipFolder:
    """A folder in a zip file. Each process opens the file for itself.

    Args:
        path: of the zip file.
        inside: path of the folder in it. Empty takes the top, or the folder in which the whole content is wrapped.

    Raises:
        UserError: the file is not a whole zip file, or has a name twice.
    """

    is_shared = can_list = True  # see `Folder`

    def __init__(self, path: Path, inside: str = "") -> None:
        self.path = path
        self._inside = inside.strip("/")
        self._open()
        if not self._inside:
            self._inside = self._wrapper()
        self.url = "/".join(filter(None, (readable(str(path)), self._inside)))

    def __reduce__(self) -> tuple[Any, ...]:
        return ZipFolder, (self.path, self._inside)

    def _open(self) -> None:
        self._process = os.getpid()
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:  # ValueError: a name in another encoding
            raise UserError(
                f"{readable(str(self.path))} can't be opened as a zip file ({error}); copy it again, or unpack it"
            ) from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.replace("\\", "/").lstrip("/")  # some programs on Windows write backslashes
            if info.is_dir() or name.startswith(_OF_MACOS) or name.endswith("/"):
                continue
            if name in self._members:
                raise UserError(f"{readable(str(self.path))} has the file {name} twice; unpack it and give the folder")
            self._members[name] = info

    def _wrapper(self) -> str:
        """The folder around all others, if any: most programs pack `photos/` and not what is in it."""
        prefix = ""
        while True:
            below = [name.removeprefix(prefix) for name in self._members if name.startswith(prefix)]
            folders = {name.partition("/")[0] for name in below if "/" in name}
            if len(folders) != 1 or not any(name.count("/") > 1 for name in below):
                return prefix.rstrip("/")
            prefix += folders.pop() + "/"

    @property
    def _prefix(self) -> str:
        return f"{self._inside}/" if self._inside else ""

    def exists(self) -> bool:
        """Whether there are files below the folder."""
        return any(name.startswith(self._prefix) for name in self._members)

    def subfolders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        return sorted({name.partition("/")[0] for name in self.files() if "/" in name})

    def files(self) -> dict[str, int]:
        """Size in bytes of every file when it is unpacked, by path."""
        inside = ((name, info) for name, info in self._members.items() if name.startswith(self._prefix))
        return dict(sorted((name.removeprefix(self._prefix), info.file_size) for name, info in inside))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file, or its bytes from `start` to `stop`. Damage is noticed by the file's checksum."""
        if self._process != os.getpid():  # a fork shares the position in the file with its parent
            self._open()
        info = self._members.get(self._prefix + name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{name}")
        try:
            return self._zip.read(info)[start:stop]
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it is encrypted
            raise OSError(0, str(error)) from error

    def write(self, name: str, content: Content) -> None:
        """Fail: zip files are only read."""
        raise OSError(errno.EROFS, "zip files are only read", f"{self.url}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Fail, if there is something to remove."""
        for name in names:
            self.write(name, b"")

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Fail: zip files are only read."""
        raise UserError(f"{self.url} is a zip file, which is only read; give a folder")
