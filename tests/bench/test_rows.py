"""Rows that are appended as they are measured: whatever ends a program, those before it are there."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import orjson
import pytest

from food101_fast.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of benchmarks/."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def rows(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("rows")


def names(document: dict[str, dict[str, dict[str, list[dict[str, str]]]]]) -> list[str]:
    return [row["name"] for part in document["parts"].values() for row in part["rows"]]


def test_a_file_cut_at_any_byte_holds_every_row_before_it(rows: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    written: dict[str, int] = {}
    for part in ("steps", "device"):
        measured = rows.Rows(path, part)
        measured.write("begin", pid=1, settings={"batch_size": 8})
        for number, add in enumerate((measured.rates, measured.rates)):
            add(f"{part} {number}", [1.5, 2.0], over={"bare": 0.9})
            written[f"{part} {number}"] = path.stat().st_size
        measured.missing(f"{part} 2", "it is not installed")
        written[f"{part} 2"] = path.stat().st_size
        measured.write("end")
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = rows.merge(rows.read_rows(path))
        # Without its line break a whole line is still whole.
        assert names(found) == [name for name, end in written.items() if end - 1 <= length]
    assert [part["state"] for part in found["parts"].values()] == ["complete", "complete"]


def test_programs_that_append_at_once_leave_whole_rows(rows: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    program = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from pathlib import Path\n"
        "from rows import Rows\n"
        f"rows = Rows(Path({str(path)!r}), sys.argv[1])\n"
        "for number in range(300): rows.value(f'{sys.argv[1]} {number}', 1.0, 's', filler='x' * 5000)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, name]) for name in ("a", "b", "c")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    found = rows.merge(rows.read_rows(path))
    for name in ("a", "b", "c"):
        assert [row["name"] for row in found["parts"][name]["rows"]] == [f"{name} {number}" for number in range(300)]


def state(part: str, word: str) -> dict[str, str]:
    return {"part": part, "kind": "state", "state": word}


def row(part: str, name: str) -> dict[str, str]:
    return {"part": part, "kind": "row", "name": name}


def test_a_part_says_how_it_ended(rows: ModuleType) -> None:
    lines = [
        {"part": "killed", "kind": "begin"},
        row("killed", "one"),
        {"part": "timed", "kind": "started"},
        row("timed", "one"),
        state("timed", "cut"),
        state("never", "left out: no time"),
        {"part": "done", "kind": "begin"},
        {"part": "done", "kind": "end"},
        {"part": "wrong", "kind": "started"},
        state("wrong", "failed (code 1)"),
    ]
    found = rows.merge(lines)["parts"]
    assert {name: part["state"] for name, part in found.items()} == {
        "killed": "cut",
        "timed": "cut",
        "never": "left out: no time",
        "done": "complete",
        "wrong": "failed (code 1)",
    }


def test_a_part_that_is_run_again_replaces_its_rows_and_no_others(rows: ModuleType) -> None:
    first = [{"part": name, "kind": "begin"} for name in "ab"] + [row("a", "old"), row("b", "kept")]
    again = [{"part": "a", "kind": "started"}, {"part": "a", "kind": "begin"}, row("a", "new")]
    assert names(rows.merge(orjson.loads(orjson.dumps(first + again)))) == ["new", "kept"]
    left_out = [state("a", "left out: no time")]
    found = rows.merge(orjson.loads(orjson.dumps(first + left_out)))
    assert names(found) == ["old", "kept"]
    assert found["parts"]["a"]["state"] == "cut"


def test_the_summary_has_every_row_and_every_state(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, summary = benchmark("rows"), benchmark("summary")
    path, merged = tmp_path / "rows.jsonl", tmp_path / "merged.json"
    steps, tests = rows.Rows(path, "steps"), rows.Rows(path, "tests")
    steps.rates("eager", [900, 1000, 1200], over={"bare": 0.98})
    steps.value("last checkpoint", 61.25, "s")
    steps.missing("cuda graph", "needs a CUDA device")
    for name, outcome in (("test_a", "passed"), ("test_b", "failed"), ("test_c", "passed")):
        tests.value(name, 1.0, "s", outcome=outcome, message="E   assert 0\nAssertionError")
    tests.write("end")
    summary.main(["--rows", str(path), "--json", str(merged)])
    shown = capsys.readouterr().out
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "== steps: cut",
        "eager 1,000 (900 to 1,200) images/s; 0.98 x bare",
        "last checkpoint 61.25 s",
        "cuda graph needs a CUDA device",
        "== tests: complete",
        "tests 1 failed, 2 passed",
        "test_b AssertionError",
    ]
    summary.main(["--json", str(merged)])
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("flags", [[], ["--rows", "absent.jsonl"], ["--json", "absent.json"], ["--rows", "empty"]])
def test_without_rows_the_summary_says_so(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=r"give --rows FILE|run benchmarks/gpu\.sh first"):
        benchmark("summary").main(flags)
