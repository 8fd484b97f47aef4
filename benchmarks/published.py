"""How a measurement gets into benchmarks/results: with what it was measured on, and whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from food101_fast.bench.provenance import Watch
from food101_fast.bench.settings import check_folder
from food101_fast.shards.folder import write_atomically
from food101_fast.train.device import Device, choose_device, set_up_device

RESULT_VERSION = 2
"""Of the files; 2 is the first with `provenance`."""

_PR_SET_CHILD_SUBREAPER = 36  # see prctl(2)


class Measurement:
    """Watches from when it is made until `publish` is called.

    Args:
        path: of the JSON file that it goes to; None for none.
        device: that is measured.

    Attributes:
        device: set up for training.

    Raises:
        UserError: `path` is a folder, or lies in one that is not there; or there is no such device.
    """

    def __init__(self, path: Path | None, device: Device = "cpu") -> None:
        check_folder(path, "--json")
        self.device = choose_device(device)
        set_up_device(self.device, tf32=True)
        self._path = path
        if sys.platform == "linux":
            # Workers outlive their command for a moment. They become children of this process, which waits for them
            # below, so that their time counts as its own.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._watch = Watch(self.device)

    def publish(self, settings: Mapping[str, object], **content: object) -> None:
        """Write what was measured, if there is a path, and say if other programs ran beside it.

        Args:
            settings: that it was measured with.
            content: what was measured.
        """
        with contextlib.suppress(ChildProcessError):  # there are none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        provenance = self._watch.notes()
        if provenance["busy"]:
            others = f"{provenance['others_share']:.0%}"
            print(f"other programs took {others} of the processors: measure again on an idle machine", file=sys.stderr)
        if self._path is None:
            return
        document = {"version": RESULT_VERSION, "provenance": provenance, "settings": dict(settings), **content}
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        write_atomically(self._path, orjson.dumps(document, option=options))
