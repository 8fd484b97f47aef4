"""Names of classes, files and runs in pictures: any characters, any length, and no warning about a missing glyph.

matplotlib's own font has Latin, Greek and Cyrillic letters. Other characters are drawn with the fonts of the machine;
what none of them has becomes an empty box.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Sequence

from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font

_OWN = "DejaVu Sans"  # comes with matplotlib
_BOX = "\u25a1"  # white square
_LONGEST = 40  # columns
# Fonts without outlines, or with a glyph for every character that shows only its block.
_USELESS = ("color", "lastresort", "last resort")
_NORMAL = 400  # weight


def short(name: str, most: int = _LONGEST) -> str:
    """A name that is cut in its middle if it takes more than `most` columns."""
    if columns(name) <= most:
        return name
    head, tail = "", ""
    while columns(head + tail) < most - 2:
        head, rest = name[: len(head) + 1], name[len(head) + 1 :]
        if 2 * columns(tail) <= columns(head) < most - 2 - columns(tail):
            tail = rest[-len(tail) - 1 :]
    return f"{head}\u2026{tail}"


def columns(text: str) -> int:
    """The width of a text in columns; Chinese and similar characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def families_for(texts: Iterable[str]) -> list[str]:
    """Font families that have the characters of the texts, as far as the machine has such fonts.

    Returns:
        Names of families, matplotlib's own first; for `family=` of a matplotlib text.
    """
    missing = {char for char in set().union(*map(set, texts)) if not char.isascii() and not _has(_path(_OWN), char)}
    missing = {char for char in missing if _is_drawn(char)}
    families = [_OWN]
    found = (
        {name: {char for char in missing if _has(path, char)} for name, path in _others().items()} if missing else {}
    )
    while missing and found:
        best = max(found, key=lambda name: len(found[name] & missing))
        if not found[best] & missing:
            break
        families.append(best)
        missing -= found.pop(best)
    return families


def drawable(text: str, families: Sequence[str]) -> str:
    """A text in one line with a box for each character that no font of the families has."""
    return "".join(_drawn(char, families) for char in text)


def runs(text: str, families: Sequence[str]) -> list[tuple[str, str]]:
    """A text as pieces of one font each: the font's file and the piece."""
    pieces: list[tuple[str, str]] = []
    for char in drawable(text, families):
        path = next((path for path in map(_path, families) if _has(path, char)), _path(_OWN))
        if pieces and pieces[-1][0] == path:
            pieces[-1] = (path, pieces[-1][1] + char)
        else:
            pieces.append((path, char))
    return pieces


def _drawn(char: str, families: Sequence[str]) -> str:
    if " " <= char <= "~":
        return char
    if char.isspace() or unicodedata.category(char) == "Cc":
        return " "
    if any(_has(_path(name), char) for name in families):
        return char
    return _BOX if _is_drawn(char) else ""


def _is_drawn(char: str) -> bool:
    """Whether a character has a shape of its own; combining marks and selectors of a variant have none."""
    return unicodedata.category(char) not in ("Cc", "Cf", "Mn", "Me") and not char.isspace()


@functools.cache
def _others() -> dict[str, str]:
    """The file of each other family of the machine, in its normal weight if there is one."""
    entries: dict[str, FontEntry] = {}
    for entry in fontManager.ttflist:
        if entry.name != _OWN and not any(word in entry.name.lower() for word in _USELESS):
            kept = entries.get(entry.name)
            if kept is None or _distance(entry) < _distance(kept):
                entries[entry.name] = entry
    return {name: entries[name].fname for name in sorted(entries)}


def _distance(entry: FontEntry) -> tuple[bool, bool, int]:
    weight = entry.weight if isinstance(entry.weight, int) else _NORMAL
    return entry.style != "normal", entry.stretch != "normal", abs(weight - _NORMAL)


def _path(family: str) -> str:
    return fontManager.findfont(_OWN) if family == _OWN else _others()[family]


@functools.cache
def _font(path: str) -> FT2Font | None:
    try:
        return FT2Font(path)
    except (OSError, RuntimeError):  # a font of bitmaps, or a damaged one
        return None


@functools.cache
def _has(path: str, char: str) -> bool:
    font = _font(path)
    return font is not None and bool(font.get_char_index(ord(char)))
