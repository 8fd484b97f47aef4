"""Progress is written on stderr: lines, and a bar on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from food101_fast.bench.progress import Progress

LINES = ("first look: 5", "round 1 of 1: loader 2 images/s", "round 2 of 2: loader 2 images/s")


class Stream(io.StringIO):
    """What stderr is, on a terminal or not."""

    terminal = True

    def isatty(self) -> bool:
        return self.terminal


def written(terminal: bool) -> str:
    """What a measurement of two rounds writes on stderr."""
    real, sys.stderr = sys.stderr, Stream()
    sys.stderr.terminal = terminal
    try:
        with Progress(0.0, "bench, threads 2") as progress:
            progress.answer_with(lambda rates: f"{rates['loader'][0]:.0f}")
            progress.doing("loader")
            progress.warmed_up({"loader": [5.0]}, 1)
            progress.finished(1, {"loader": [1.0, 3.0, 2.0]})
            progress.finished(2, {"loader": [2.0]})
        return sys.stderr.getvalue()
    finally:
        sys.stderr = real


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_also_shows_what_is_measured_now(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = written(terminal)
    assert all(f" s: {line}\n" in text for line in LINES)
    assert ("measuring loader" in text) == terminal
    assert capsys.readouterr().out == ""


def test_the_bar_can_be_switched_off() -> None:
    # In a process of its own, since tqdm reads its environment when it is imported.
    environment = os.environ | {"TQDM_DISABLE": "1"}
    code = "from tests.bench.test_progress import written; print(written(True), end='')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f" s: {line}\n" in done.stdout for line in LINES)
    assert "measuring loader" not in done.stdout
