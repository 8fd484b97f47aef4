"""From paths, URLs and patterns to tars: the folder that has them all, their names in it, and their splits."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

import braceexpand

from food101_fast.errors import UserError
from food101_fast.shards.foreign.members import printable
from food101_fast.shards.layout import split_of_name
from food101_fast.storage import Folder, open_folder

_ONE_WORD = re.compile(r"[^a-z]*[a-z]+[^a-z]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tars:
    """The tars of a data set."""

    folder: Folder
    """The folder that has them all; if they are in several, the nearest one above these."""
    splits: dict[str, str]
    """Split of each tar, by its path in the folder, in the given order."""


def find_tars(patterns: Sequence[str], split: str | None) -> Tars:
    """Find the tars.

    Args:
        patterns: paths or URLs of tars, with braces (`{000000..000009}`) and, on a disk, `~`, `*`, `?` and `[...]`.
        split: of all tars; None reads it from their names.

    Raises:
        UserError: a tar is missing, given twice or compressed, or they have no folder in common.
    """
    tars = [tar for pattern in patterns for tar in _matches(pattern)]
    for tar in tars:
        if "://" not in tar and os.path.isdir(tar):
            raise UserError(f"{tar} is a folder; give its tars: '{os.path.join(tar, '*.tar')}'")
    wrong = next((tar for tar in tars if not tar.endswith(".tar")), None)
    if wrong is not None:
        raise UserError(
            f"{os.path.basename(wrong)} does not end in .tar; unpack compressed tars first, since samples are read by "
            "their position"
        )
    location, names = _in_common(tars)
    if len(set(names)) != len(names):
        raise UserError("a tar is given twice; give each once")
    odd = next((name for name in names if printable(name) != name), None)
    if odd is not None:
        raise UserError(f"the name {printable(odd)} is not UTF-8 text on one line, as a manifest needs; rename it")
    missing = next((tar for tar in tars if "://" not in tar and not os.path.exists(tar)), None)
    if missing is not None:
        raise UserError(f"there is no file {missing}; correct the path")
    splits = {name: split or _split_of(name, tar) for name, tar in zip(names, tars, strict=True)}
    return Tars(folder=open_folder(location), splits=splits)


def _matches(pattern: str) -> list[str]:
    if "://" not in pattern:
        pattern = os.path.expanduser(pattern)
        if os.path.exists(pattern):
            return [pattern]
    rest = _below_existing(pattern)
    try:
        expanded = [pattern.removesuffix(rest) + one for one in braceexpand.braceexpand(rest)]
    except ValueError as error:
        raise UserError(f"the braces of {pattern} are not closed ({error}); correct the pattern") from error
    return [tar for one in expanded for tar in _globbed(one)]


def _globbed(pattern: str) -> list[str]:
    """The files that match a path with `*`; the path itself if it has no such characters, or is a URL."""
    if "://" in pattern or os.path.exists(pattern):
        return [pattern]
    rest = _below_existing(pattern)
    existing = glob.escape(pattern.removesuffix(rest))
    if not glob.has_magic(rest):
        return [pattern]
    # `[v2]` in a name is a set of characters first, and itself if nothing matches.
    matches = glob.glob(existing + rest) or glob.glob(existing + rest.replace("[", "[[]"))
    if not matches:
        raise UserError(f"no file matches {pattern}; correct the path or the pattern")
    return sorted(matches)


def _below_existing(pattern: str) -> str:
    """What follows in a path after the folders that exist under just these names, such as `data [v2]/`."""
    start = 0
    while (end := pattern.find("/", start)) >= 0 and (end == 0 or os.path.isdir(pattern[:end])):
        start = end + 1
    return pattern[start:]


def _in_common(tars: Sequence[str]) -> tuple[str, list[str]]:
    """The folder of all tars, and the path of each in it."""
    parents = {posixpath.dirname(tar) for tar in tars}
    if len(parents) == 1:
        return parents.pop() or ".", [posixpath.basename(tar) for tar in tars]
    schemes = {tar.partition("://")[0] if "://" in tar else "" for tar in tars}
    several = f"the tars are in {len(parents)} folders, such as {' and '.join(sorted(parents)[:2])}"
    if len(schemes) > 1:
        raise UserError(f"{several}, of different kinds; copy them into one folder")
    scheme = schemes.pop()
    paths = [tar.partition("://")[2] for tar in tars] if scheme else list(map(os.path.abspath, tars))
    common = posixpath.commonpath(list(map(posixpath.dirname, paths)))
    if common in ("", "/"):
        raise UserError(f"{several}, which have no folder in common; copy or link them into one")
    return f"{scheme}://{common}" if scheme else common, [posixpath.relpath(path, common) for path in paths]


def _split_of(name: str, tar: str) -> str:
    """The split that the name of a tar tells, or else the name of its folder."""
    split = split_of_name(posixpath.basename(name).removesuffix(".tar"))
    folder = posixpath.basename(posixpath.dirname(tar))
    # A folder that has all tars may have any name, such as my_test_data; with one word it is meant.
    if split is None and ("/" in name or _ONE_WORD.fullmatch(folder)):
        split = split_of_name(folder)
    if split is None:
        raise UserError(
            f"the name of {name} does not say which split it belongs to; name the tars train-*.tar, val-*.tar and "
            "test-*.tar, or give --split if all belong to one"
        )
    return split
