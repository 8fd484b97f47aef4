"""A report names runs whose evaluation is missing or older than their weights, on the terminal too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from food101_fast.runs.folder import RunFolder

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def older(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose evaluation is of other weights than its best."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "older"))
    path = RunFolder(folder).evaluation("test")
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"weights": "0" * 16}))
    return folder


def test_a_comparison_says_which_run_to_evaluate_again(tiny_run: Path, older: Path, command: Command) -> None:
    out = str(older / "page.html")
    code, written, err = command("report", "--compare", str(tiny_run), str(older), "--out", out)
    assert (code, written) == (0, f"{out}\n")
    assert err == (
        f"warning: {older} was trained on after its evaluation on test, so the page has no results of it there; "
        f"run python -m food101_fast.evaluate --run {older}\n"
    )


def test_a_report_does_too(tiny_run: Path, older: Path, command: Command) -> None:
    assert command("report", "--run", str(tiny_run))[2] == ""
    code, _, err = command("report", "--run", str(older), "--split", "val")
    assert code == 0
    assert err == (
        f"warning: {older} was not evaluated on val, so the page has no results of it there; "
        f"run python -m food101_fast.evaluate --run {older} --split val\n"
    )
