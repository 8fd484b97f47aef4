"""Runs on shards without a test split: every command names val, or uses it.

Seen when new users followed the docs: `report` told them to run an `evaluate` that could not work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from food101_fast.prepare import PrepareSettings, prepare
from tests.conftest import write_folder

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, command: Command) -> Path:
    """A run on shards that were split in two."""
    write_folder(tmp_path / "images", {"ant": 10, "bee": 10}, width=40, height=40)
    shards = tmp_path / "shards"
    source = f"folder:{tmp_path / 'images'}"
    prepare(PrepareSettings(source=source, out=shards, size=32, workers=1, fractions=(0.8, 0.2, 0.0)))
    model = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--batch-size", "8")
    arguments = ("--shards", str(shards), "--run", str(tmp_path / "run"), *model, "--epochs", "1", "--device", "cpu")
    assert command("train", *arguments)[0] == 0
    return tmp_path / "run"


def test_evaluate_and_report_use_or_name_val(run: Path, command: Command) -> None:
    refused = command("evaluate", "--run", str(run))
    assert refused == (
        2,
        "",
        f"error: {run} can't be evaluated: its shards have no split test (they have train, val); give --split val\n",
    )
    page = run / "report.html"
    assert "The val split was not evaluated" in page.read_text()
    assert command("report", "--run", str(run)) == (
        0,
        f"{page}\n",
        f"warning: {run} was not evaluated on val, so the page has no results of it there; "
        f"run python -m food101_fast.evaluate --run {run} --split val\n",
    )
    code, out, _ = command("evaluate", "--run", str(run), "--split", "val")
    assert (code, out.splitlines()[-1]) == (0, str(page))
    assert command("report", "--run", str(run)) == (0, f"{page}\n", "")
    assert "images of the val split" in page.read_text()


def test_a_report_on_test_says_that_there_is_none(run: Path, command: Command) -> None:
    code, out, err = command("report", "--run", str(run), "--split", "test")
    assert (code, out) == (0, f"{run / 'test_report.html'}\n")
    assert err == (
        f"warning: {run} has no results on test: its shards have no split test (they have train, val); "
        "give --split val\n"
    )
    assert "have no split test" in (run / "test_report.html").read_text()
