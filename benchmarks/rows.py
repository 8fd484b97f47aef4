"""Measurements as lines of JSON, each appended when it was measured: an end at any moment loses none of them.

Several programs may append to one file at once. A line belongs to a part and has a kind:

- `begin` and `end`: a part's program began (with its settings) or ended; both say what it ran on.
- `row`: something measured: a `name`, and `repetitions` with their `unit`, a `value` with its `unit`, or the `reason`
  why there is no figure.
- `started` and `state`: written by gpu.sh before and after a part: how it ended, and when, in seconds of the script.

The others say `at` what time they were written, in seconds since 1970.

Needs no torch, so that a killed script can still sum up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson


class Rows:
    """The rows of one part.

    Args:
        path: of the file, made if it is missing; None to keep nothing.
        part: that they belong to.
    """

    def __init__(self, path: Path | None, part: str) -> None:
        self._path = path
        self._part = part

    def write(self, kind: str, **content: object) -> None:
        """Append one line, in a single write, so that it is there whole or not at all."""
        if self._path is None:
            return
        document = {"part": self._part, "kind": kind, "at": round(time.time(), 1), **content}
        line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def rates(self, name: str, repetitions: Sequence[float], unit: str = "images/s", **more: object) -> None:
        """Append a rate: all its repetitions."""
        self.write("row", name=name, unit=unit, repetitions=list(repetitions), **more)

    def value(self, name: str, value: float, unit: str, **more: object) -> None:
        """Append a single figure."""
        self.write("row", name=name, value=value, unit=unit, **more)

    def missing(self, name: str, reason: str) -> None:
        """Append why there is no figure."""
        self.write("row", name=name, reason=reason)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; what is not JSON, such as a line cut by a full disk, is left out."""
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict) and "part" in found:
            lines.append(found)
    return lines


def merge(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All parts with their rows, in the order in which they were first seen.

    A part that was started again replaces its earlier rows. Its `state` is `complete`, `cut`, `failed (code N)`,
    `left out: why`, or `cut` where nothing says that it ended.
    """
    parts: dict[str, dict[str, Any]] = {}
    for line in lines:
        name, kind = line.pop("part"), line.pop("kind", "")
        part = parts.get(name)
        if part is None or kind == "started" or (kind == "begin" and part["rows"]):
            part = parts[name] = {"state": "cut", "rows": []}
        if kind == "row":
            part["rows"].append(line)
        elif kind == "begin":
            part.update(line)
        elif kind == "end":
            part.update(line, state="complete")
        elif kind == "state" and (not part["rows"] or not line["state"].startswith("left out")):
            part.update(line)
    return {"version": 1, "parts": parts}
