"""How a measurement gets into benchmarks/results: with what it was measured on, and whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from food101_fast.bench.provenance import Watch
from food101_fast.shards.folder import write_atomically

RESULT_VERSION = 2
"""Of the files; 2 is the first with `provenance`."""


def publish(path: Path | None, watch: Watch, settings: Mapping[str, object], **content: object) -> None:
    """Write a result as JSON; without a path nothing is written.

    Args:
        path: of the file.
        watch: begun before the measurement.
        settings: that it was made with.
        content: what was measured.
    """
    if path is None:
        return
    document = {"version": RESULT_VERSION, "provenance": watch.notes(), "settings": dict(settings), **content}
    write_atomically(path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
