"""Whose processor time is whose."""

from __future__ import annotations

import subprocess
import sys

from food101_fast.bench.provenance import _own_seconds

# Works for a third of a second of its own processor time, says so, and lives on until its input ends.
BUSY = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('worked', flush=True)\nsys.stdin.read()"


def test_time_of_processes_that_still_run_is_ones_own() -> None:
    before = _own_seconds()
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"worked\n"
        while_it_runs = _own_seconds() - before
        process.communicate()
    assert while_it_runs > 0.25
    assert _own_seconds() - before >= while_it_runs - 0.02  # clock ticks
