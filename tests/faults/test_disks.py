"""A disk that is full under each command: one sentence, exit code 2, and what was there before stays as it was."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from food101_fast.evaluate import evaluate
from food101_fast.evaluate.metrics import compute_metrics
from food101_fast.runs.evaluation import read_evaluation, read_predictions
from food101_fast.runs.run import read_run
from tests.train.launch import forked

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--device", "cpu")
LOADER = ("bench", "loader", "--shards", "{shards}", "--seconds", "0.01", *SMALL)

COMMANDS = {
    "evaluate": ("evaluate", "--run", "{run}", "--shards", "{shards}", "--device", "cpu", "--tta", "flip"),
    "report": ("report", "--run", "{run}"),
    "report --compare": ("report", "--compare", "{run}", "{other}", "--out", "{new}/comparison.html"),
    "export": ("export", "--run", "{run}", "--out", "{new}/export"),
    "bench --json": (*LOADER, "--json", "{new}/bench.json"),
    "bench --plot": (*LOADER, "--sweep", "threads=1,2", "--plot", "{new}/sweep.png"),
    "bench --profile": ("bench", "train", "--shards", "{shards}", "--profile", "{new}/profile", *SMALL),
    "transforms": ("transforms", "--shards", "{shards}", "--out", "{new}/grid.png", "--image-size", "32"),
}


def files(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


# Profiling takes as long as all the others.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "bench --profile")) for name in COMMANDS]
)
def test_a_full_disk_is_one_sentence(
    name: str, moved_run: Path, tiny_run: Path, tiny_path: Path, tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    new = tmp_path / "new"
    new.mkdir()
    names = {"run": moved_run, "other": tiny_run, "shards": tiny_path, "new": new}
    before = files(moved_run, new)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = command(*(word.format_map(names) for word in COMMANDS[name]))
    last = err.splitlines()[-1]
    assert code == 2, err
    assert last.startswith("error: ")
    assert "could not be written (No space left on device)" in last
    assert "Traceback" not in err
    after = files(moved_run, new)
    if name == "bench --profile":  # the trace is torch's own, and there before
        after = {path: content for path, content in after.items() if not path.endswith("trace.json.gz")}
    assert after == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_space_for_the_output_is_one_sentence() -> None:
    program = "from food101_fast.cli import exit_with; exit_with(lambda _: print('a line'), [])"
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run([sys.executable, "-c", program], stdout=nowhere, stderr=subprocess.PIPE, text=True)
    sentence = "error: the output could not be written (No space left on device); free space there\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def evaluate_until_killed(run: Path, shards: Path, renames: int) -> None:
    """Evaluate with other predictions than before, and end by a kill before so many files have their names."""
    rename: Callable[..., Any] = Path.replace
    done: list[Path] = []

    def counted(self: Path, target: Path) -> Any:
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(self)
        return rename(self, target)

    Path.replace = counted  # type: ignore[method-assign]
    evaluate(run, shards=shards, device="cpu", tta="flip")


@pytest.mark.parametrize("renames", range(5))
def test_a_kill_never_pairs_metrics_with_other_predictions(renames: int, moved_run: Path, tiny_path: Path) -> None:
    """Five files are renamed: predictions, metrics, and three pictures."""
    assert forked(evaluate_until_killed, moved_run, tiny_path, renames) == -signal.SIGKILL
    metrics, stored = read_evaluation(moved_run, "test"), read_predictions(moved_run, "test")
    assert (metrics is None) == (renames == 1)
    if metrics is not None:
        assert metrics.tta == ("none" if renames == 0 else "flip")
        again = compute_metrics(stored.logits, stored.labels, read_run(moved_run).classes)
        assert {name: getattr(metrics, name) for name in vars(again)} == vars(again)
