"""Every kind of source by its name, the word before the colon in `--source`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import Source
from food101_fast.prepare.sources.demo import DemoSource
from food101_fast.prepare.sources.folder import FolderSource
from food101_fast.prepare.sources.hub import HubSource
from food101_fast.storage import open_folder


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One kind of source."""

    usage: str
    """How `--source` is written, for the error about an unknown kind."""
    open: Callable[[str, int], Source]
    """Opens the source. Takes the text after the colon, and the seed."""
    has_location: bool = True
    """Whether there is a text after the colon."""


KINDS = {
    "hub": SourceKind(
        usage="hub:ID (such as hub:ethz/food101)",
        open=lambda location, seed: HubSource(location),
    ),
    "folder": SourceKind(
        usage="folder:PATH with one folder per class",
        open=lambda location, seed: FolderSource(open_folder(location)),
    ),
    "demo": SourceKind(
        usage="demo:",
        open=lambda location, seed: DemoSource(seed),
        has_location=False,
    ),
}


def open_source(text: str, *, seed: int = 0) -> Source:
    """Open the source that `--source` names.

    Args:
        text: the kind, a colon, and the location if the kind has one, such as `hub:ethz/food101`.
        seed: `demo:` draws other pictures for another seed; other kinds ignore it.

    Raises:
        UserError: the kind is unknown, nothing is there, or it has no classes.
    """
    name, colon, location = text.partition(":")
    kind = KINDS.get(name)
    if kind is None or not colon or bool(location) != kind.has_location:
        *first, last = [kind.usage for kind in KINDS.values()]
        raise UserError(f"unknown source {text!r}; give {', '.join(first)}, or {last}")
    return kind.open(location, seed)
