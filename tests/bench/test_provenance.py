"""Whose processor time is whose, and which commit was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from food101_fast.bench import provenance
from food101_fast.bench.provenance import Watch, _own_seconds

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


def test_a_copy_without_git_is_told_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit() -> str | None:
        return Watch(torch.device("cpu")).notes().commit

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.delenv("FOOD101_FAST_COMMIT", raising=False)
    assert commit() is None
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert commit() == head.stdout.strip()
    monkeypatch.setenv("FOOD101_FAST_COMMIT", "told")
    assert commit() == "told"
