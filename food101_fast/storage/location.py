"""From a path or URL to the folder there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.storage.folder import Folder
from food101_fast.storage.local import LocalFolder
from food101_fast.storage.remote import RemoteFolder


def open_folder(location: str | os.PathLike[str]) -> Folder:
    """The folder at a path, or at a URL that fsspec knows. It need not exist.

    Raises:
        UserError: the protocol is unknown, or the package for it is not installed.
    """
    text = os.fspath(location)
    if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", text):
        raise UserError(f"{text} looks like a URL and has one slash after the colon; write two")
    if "://" not in text:
        return LocalFolder(Path(text))
    if text.startswith(("file://", "local://")):
        return LocalFolder(Path(text.partition("://")[2]))
    return RemoteFolder(text)
