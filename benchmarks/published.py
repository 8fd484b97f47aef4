"""How a measurement gets into benchmarks/results: with what it was measured on, and whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
import torch

from food101_fast.bench.provenance import Watch
from food101_fast.bench.settings import check_folder
from food101_fast.shards.folder import write_atomically

RESULT_VERSION = 2
"""Of the files; 2 is the first with `provenance`."""


_PR_SET_CHILD_SUBREAPER = 36  # see prctl(2)


def begin(path: Path | None, device: torch.device) -> Watch:
    """Watch a measurement from here on, which `publish` will write.

    Args:
        path: of the file that it goes to; None for none.
        device: that is measured.

    Raises:
        UserError: `path` is a folder, or lies in one that is not there.
    """
    check_folder(path, "--json")
    return Watch(device)


def adopt_orphans() -> None:
    """Have descendants that lose their parent become children of this process, so that their time is counted as its
    own (Linux): the workers of a command outlive it for a moment."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def publish(path: Path | None, watch: Watch, settings: Mapping[str, object], **content: object) -> None:
    """Write a result as JSON, and say if it was measured beside other programs; without a path nothing is written.

    Args:
        path: of the file.
        watch: begun before the measurement.
        settings: that it was made with.
        content: what was measured.
    """
    with contextlib.suppress(ChildProcessError):  # there are none
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    provenance = watch.notes()
    if provenance["busy"]:
        others = f"{provenance['others_share']:.0%}"
        print(f"other programs took {others} of the processors: measure again on an idle machine", file=sys.stderr)
    if path is None:
        return
    document = {"version": RESULT_VERSION, "provenance": provenance, "settings": dict(settings), **content}
    write_atomically(path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
