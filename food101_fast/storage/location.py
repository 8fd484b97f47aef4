"""From a path or URL to the folder there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.storage.folder import Folder
from food101_fast.storage.local import LocalFolder
from food101_fast.storage.names import exact, readable
from food101_fast.storage.remote import RemoteFolder
from food101_fast.storage.zipped import SUFFIX as ZIP_SUFFIX
from food101_fast.storage.zipped import ZipFolder


def open_folder(location: str | os.PathLike[str]) -> Folder:
    """The folder at a path, or at a URL that fsspec knows. It need not exist.

    A path may begin with `~`, spell bytes as `names.readable` does, and lead to a zip file, or to a folder in one. All
    other characters, such as `[`, `*`, `#` and `%`, mean themselves.

    Raises:
        UserError: the protocol is unknown, or the package for it is not installed.
    """
    text = os.fspath(location)
    if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", text):
        raise UserError(f"{text} looks like a URL and has one slash after the colon; write two")
    if "://" not in text:
        return _local(text)
    if text.startswith(("file://", "local://")):
        return _local(text.partition("://")[2])
    return RemoteFolder(text)


def _local(text: str) -> Folder:
    path = Path(os.path.expanduser(exact(text)))
    for archive in (path, *path.parents):
        if archive.suffix.lower() == ZIP_SUFFIX and archive.is_file():
            return ZipFolder(archive, readable(path.relative_to(archive).as_posix()) if path != archive else "")
    return LocalFolder(path)
