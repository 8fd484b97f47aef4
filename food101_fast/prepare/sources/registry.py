"""Every kind of source by its name, the word before the colon in `--source`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import Source, SourceOptions
from food101_fast.prepare.sources.demo import DemoSource
from food101_fast.prepare.sources.folder import FolderSource
from food101_fast.prepare.sources.hub import HubSource
from food101_fast.prepare.sources.table import TableSource
from food101_fast.storage import open_folder


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """One kind of source."""

    usage: str
    """How `--source` is written, for the error about an unknown kind."""
    open: Callable[[str, SourceOptions], Source]
    """Opens the source. Takes the text after the colon."""
    options: frozenset[str] = frozenset({"seed"})
    """Fields of `SourceOptions` that this kind uses. Others are refused when given."""
    has_location: bool = True
    """Whether there is a text after the colon."""


KINDS = {
    "hub": SourceKind(
        usage="hub:ID (such as hub:ethz/food101)",
        open=HubSource,
        options=frozenset({"seed", "config", "revision", "image_column", "label_column"}),
    ),
    "folder": SourceKind(
        usage="folder:PATH with one folder per class",
        open=lambda location, options: FolderSource(open_folder(location)),
    ),
    "table": SourceKind(
        usage="table:FILE with a file and a label in each row",
        open=lambda location, options: TableSource(location, options.columns),
        options=frozenset({"seed", "columns"}),
    ),
    "demo": SourceKind(
        usage="demo:",
        open=lambda location, options: DemoSource(options.seed),
        has_location=False,
    ),
}

# What to give instead of an option that a kind does not have.
_INSTEAD = {
    ("table", "label_column"): "for a table give --columns label=NAME",
    ("table", "image_column"): "for a table give --columns file=NAME",
    ("hub", "columns"): "for a hub data set give --image-column and --label-column",
}


def open_source(text: str, options: SourceOptions | None = None) -> Source:
    """Open the source that `--source` names.

    Args:
        text: the kind, a colon, and the location if the kind has one, such as `hub:ethz/food101`.
        options: what else decides what is listed.

    Raises:
        UserError: the kind is unknown, has no such option, nothing is there, or it has no classes.
    """
    options = options or SourceOptions()
    name, colon, location = text.partition(":")
    kind = KINDS.get(name)
    if kind is None or not colon or bool(location) != kind.has_location:
        *first, last = [kind.usage for kind in KINDS.values()]
        raise UserError(f"unknown source {text!r}; {_meant(text)}give {', '.join(first)}, or {last}")
    for option in fields(options):
        if option.name not in kind.options and getattr(options, option.name) != getattr(SourceOptions(), option.name):
            able = [f"{other}:" for other, kind in KINDS.items() if option.name in kind.options]
            instead = _INSTEAD.get((name, option.name), "leave it out")
            raise UserError(
                f"--{option.name.replace('_', '-')} is for {' and '.join(able)}, and --source is {text}; {instead}"
            )
    return kind.open(location, options)


def _meant(text: str) -> str:
    """The source that a path without a kind means."""
    path = Path(text).expanduser()
    if path.suffix == ".tar":
        return "tars are read by `python -m food101_fast.shards index`; "
    if path.is_dir() or path.suffix == ".zip":
        return f"did you mean folder:{text}? "
    return f"did you mean table:{text}? " if path.is_file() else ""
