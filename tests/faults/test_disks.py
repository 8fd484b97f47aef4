"""A full or read-only disk under each command: one sentence, exit code 2, and the files stay as they were."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest

from food101_fast.evaluate import evaluate
from food101_fast.evaluate.metrics import compute_metrics
from food101_fast.runs.evaluation import read_evaluation, read_predictions
from food101_fast.runs.run import read_run
from tests.faults.read_only import mounted_read_only, simulated_read_only
from tests.train.launch import forked

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--device", "cpu")
LOADER = ("bench", "loader", "--shards", "{shards}", "--seconds", "0.01", *SMALL)

COMMANDS = {
    "prepare": ("prepare", "--source", "folder:{images}", "--out", "{new}/shards", "--size", "16", "--workers", "1"),
    "train": ("train", "--shards", "{shards}", "--run", "{new}/run", "--weights", "none", "--epochs", "1", *SMALL),
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


def full_disk(_: Path) -> AbstractContextManager[object]:
    """No file reaches the disk."""
    return patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


FAULTS = {
    "full": (full_disk, "could not be written (No space left on device)"),
    "simulated read-only": (simulated_read_only, "could not be written (Read-only file system)"),
    "mounted read-only": (mounted_read_only, "could not be written (Read-only file system)"),
}


# Profiling takes as long as all the others, and export as long as most of them. The first three commands and a real
# read-only disk stand for the rest of a simulated one.
SLOW = (
    ("export", "mounted read-only"),
    *(("bench --profile", fault) for fault in FAULTS),
    *((name, "simulated read-only") for name in list(COMMANDS)[3:]),
)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param(name, fault, marks=[pytest.mark.slow] * ((name, fault) in SLOW))
        for name in COMMANDS
        for fault in FAULTS
    ],
)
def test_a_disk_that_takes_nothing_is_one_sentence(
    name: str, fault: str, moved_run: Path, tiny_run: Path, tiny_path: Path, tiny_folder: Path, tmp_path: Path,
    command: Command,
) -> None:  # fmt: skip
    new = tmp_path / "new"
    new.mkdir()
    names = {"run": moved_run, "other": tiny_run, "shards": tiny_path, "images": tiny_folder, "new": new}
    before = files(moved_run, new)
    break_disk, sentence = FAULTS[fault]
    with break_disk(tmp_path):
        code, _, err = command(*(word.format_map(names) for word in COMMANDS[name]))
    last = err.splitlines()[-1]
    assert code == 2, err
    assert last.startswith("error: ")
    assert sentence in last
    assert "Traceback" not in err
    after = files(moved_run, new)
    assert after == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_space_for_the_output_is_one_sentence() -> None:
    program = "from food101_fast.cli import exit_with; exit_with(lambda _: print('a line'), [])"
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run([sys.executable, "-c", program], stdout=nowhere, stderr=subprocess.PIPE, text=True)
    sentence = "error: the output could not be written (No space left on device); free space there\n"
    assert (done.returncode, done.stderr) == (2, sentence)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_space_for_predictions_is_one_sentence(tiny_run: Path, tiny_folder: Path) -> None:
    predict = [sys.executable, "-m", "food101_fast.predict", "--run", str(tiny_run), "--device", "cpu", "--json"]
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run([*predict, str(tiny_folder)], stdout=nowhere, stderr=subprocess.PIPE, text=True)
    sentence = "error: the output could not be written (No space left on device); free space there"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, sentence)


def evaluate_until_killed(run: Path, shards: Path, renames: int) -> None:
    """Evaluate with other predictions than before, and end by a kill before so many files have their names."""
    rename = Path.replace
    done: list[Path] = []

    def counted(self: Path, target: Path) -> Path:
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(self)
        return rename(self, target)

    with patch.object(Path, "replace", counted):
        evaluate(run, shards=shards, device="cpu", tta="flip")


@pytest.mark.parametrize(
    "renames", [pytest.param(number, marks=[pytest.mark.slow] * (number in (0, 1, 4, 5))) for number in range(6)]
)
def test_a_kill_never_pairs_metrics_with_other_predictions(renames: int, moved_run: Path, tiny_path: Path) -> None:
    """Six files are renamed: the temperature, predictions, metrics, and three pictures."""
    assert forked(evaluate_until_killed, moved_run, tiny_path, renames) == -signal.SIGKILL
    metrics, stored = read_evaluation(moved_run, "test"), read_predictions(moved_run, "test")
    assert (metrics is None) == (renames == 2)
    if metrics is not None:
        assert metrics.tta == ("none" if renames < 2 else "flip")
        again = compute_metrics(stored.logits, stored.labels, read_run(moved_run).classes)
        assert {name: getattr(metrics, name) for name in vars(again)} == vars(again)
