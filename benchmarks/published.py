"""Writes a measurement into benchmarks/results, with what it was measured on.

A script can also append each row to a file as soon as it is measured (`rows.py`), in case it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
from rows import Rows

from food101_fast.bench.provenance import Watch
from food101_fast.bench.settings import check_folder
from food101_fast.compute.device import Device, choose_device, set_up_device
from food101_fast.storage import write_atomically

RESULT_VERSION = 2
"""Of the files; 2 is the first with `provenance`."""

_PR_SET_CHILD_SUBREAPER = 36  # see prctl(2)


class Measurement:
    """Watches the machine from its construction until `publish` is called.

    Args:
        path: JSON file for the results; None for none.
        device: device that is measured.
        rows: file that each row is appended to as it is measured; None for none.
        part: part of gpu.sh that these rows belong to.
        settings: settings of the measurement, for the first row; paths are left out.

    Attributes:
        device: set up for training.
        rows: appends rows to that file.

    Raises:
        UserError: `path` or `rows` is a folder, or its folder does not exist; or there is no such device.
    """

    def __init__(
        self,
        path: Path | None,
        device: Device = "cpu",
        *,
        rows: Path | None = None,
        part: str = "",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        check_folder(path, "--json")
        check_folder(rows, "--rows")
        self.device = choose_device(device)
        set_up_device(self.device, tf32=True)
        self._path = path
        if sys.platform == "linux":
            # Workers outlive their command for a moment. They become children of this process, which waits for them
            # below, so that their time counts as its own.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._watch = Watch(self.device)
        self.rows = Rows(rows, part)
        if rows is not None:
            known = {name: value for name, value in (settings or {}).items() if not isinstance(value, Path)}
            self.rows.write("begin", pid=os.getpid(), settings=known, provenance=self._watch.notes())

    def publish(self, settings: Mapping[str, object], **content: object) -> None:
        """Write what was measured, if there is a path, and say if other programs ran beside it.

        Args:
            settings: settings of the measurement.
            content: what was measured, by key.
        """
        with contextlib.suppress(ChildProcessError):  # there are none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        provenance = self._watch.notes()
        self.rows.write("end", provenance=provenance)
        if provenance.busy:
            others = f"{provenance.others_share:.0%}"
            print(f"other programs took {others} of the processors: measure again on an idle machine", file=sys.stderr)
        if self._path is None:
            return
        document = {"version": RESULT_VERSION, "provenance": provenance, "settings": dict(settings), **content}
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        write_atomically(self._path, orjson.dumps(document, option=options))
