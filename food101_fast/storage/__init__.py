"""Whole files in a folder on a disk or in a bucket: list, read, write, remove, and lock against other writers.

A file appears whole under its name or not at all. On a disk it is written under a temporary name, flushed and renamed;
a bucket shows an object only when its upload is complete.

- folder.py: the protocol `Folder`; local.py, remote.py and zipped.py implement it; location.py opens one by its path
  or URL.
- names.py: file names that are not UTF-8.
- locks.py: locks between processes, with and without help of the operating system.
- atomic.py: one file on a disk, the error when it can't be written, and the hash of its bytes.
"""

from food101_fast.storage.atomic import TEMPORARY_SUFFIX, file_hash, replacing, write_atomically, writing
from food101_fast.storage.folder import Content, Folder
from food101_fast.storage.local import LocalFolder
from food101_fast.storage.location import open_folder
from food101_fast.storage.names import exact, readable
from food101_fast.storage.remote import RemoteFolder

__all__ = [
    "TEMPORARY_SUFFIX",
    "Content",
    "Folder",
    "LocalFolder",
    "RemoteFolder",
    "exact",
    "file_hash",
    "open_folder",
    "readable",
    "replacing",
    "write_atomically",
    "writing",
]
