"""A pytest plugin that appends the outcome of every test to a file of rows as soon as it is known.

TEST_ROWS=FILE python -m pytest -p outcomes tests        (with benchmarks/ on PYTHONPATH)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from rows import Rows

_ROWS = Rows(Path(os.environ["TEST_ROWS"]), "tests")
_WORKER = "PYTEST_XDIST_WORKER" in os.environ  # their outcomes reach the process that started them


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what it runs on."""
    if not _WORKER:
        from food101_fast.bench.provenance import Watch
        from food101_fast.compute.device import choose_device

        _ROWS.write("begin", pid=os.getpid(), settings={}, provenance=Watch(choose_device("auto")).notes())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A row for a test's end, or for what went wrong before or after it."""
    if _WORKER or (report.when != "call" and report.outcome == "passed"):
        return
    about = {} if report.outcome == "passed" else {"message": report.longreprtext.strip()[-500:]}
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        about = {"message": report.longrepr[2]}
    _ROWS.value(report.nodeid, report.duration, "s", outcome=report.outcome, **about)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Say that all have run."""
    if not _WORKER and exitstatus in (0, 1):
        _ROWS.write("end")
        sys.stdout.flush()
