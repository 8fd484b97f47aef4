"""Where images come from: one module for each kind of `--source`.

To add a kind:

1. Write a module with a class that has the attributes and methods of `Source` (base.py). folder.py is a short example.
2. Add a line for it to `KINDS` (registry.py).
3. Name it in the docstring of `PrepareSettings.source` (settings.py), which is the text of `--help`.
"""

from food101_fast.prepare.sources.base import GivenSplits, Source, SourceOptions
from food101_fast.prepare.sources.folder import FolderSource
from food101_fast.prepare.sources.registry import KINDS, SourceKind, open_source

__all__ = [
    "KINDS",
    "FolderSource",
    "GivenSplits",
    "Source",
    "SourceKind",
    "SourceOptions",
    "open_source",
]
