"""A save that is killed before any of its file operations leaves complete checkpoints, from which the run resumes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.results import EpochRow
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, RunOptions, train
from food101_fast.train.saving import Saver
from food101_fast.train.state import Progress
from food101_fast.train.validate import Validation
from tests.train.launch import forked, plain_model
from tests.train.test_resume import difference, metrics_of, state_of

RECIPE = Recipe(weights="none", image_size=32, epochs=3, batch_size=16, learning_rate=1e-3, ema_decay=0.9)
OPTIONS = RunOptions(keep=1)
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.chmod"}


@pytest.fixture(autouse=True)
def _as_in_other_processes() -> Iterator[None]:
    """One thread, as where runs are killed: so results are the same to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL = Hooks(build_model=plain_model)


def validated(accuracies: list[float]) -> Hooks:
    """A small model with these validation accuracies, one after the other."""
    left = iter(accuracies)
    validate = lambda *_, **__: Validation(loss=1.0, top1=next(left), top5=1.0)  # noqa: E731
    return dataclasses.replace(SMALL, validate=validate)


def killed_at_every_operation(shards: Path, run: Path, copies: Path, accuracies: list[float]) -> None:
    """Train in `run`; the save after the second epoch is done on copies of the folder, each killed one operation later.

    The last of the copies is not killed any more. For a process of its own.
    """
    torch.set_num_threads(1)
    save = Saver.save_epoch

    def killed_save(self: Saver, progress: Progress, row: EpochRow, *, improved: bool) -> None:
        for number in itertools.count() if row.epoch == 2 else []:
            copy = copies / f"{number:03d}"
            shutil.copytree(self.folder, copy)
            child = os.fork()
            if not child:
                self.folder = self.log._folder = copy
                sys.addaudithook(killer(number))
                save(self, progress, row, improved=improved)
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                break
        save(self, progress, row, improved=improved)

    Saver.save_epoch = killed_save  # type: ignore[method-assign]
    train(ShardSet.open(shards), run, RECIPE, device="cpu", options=OPTIONS, hooks=validated(accuracies))


def killer(number: int) -> Any:
    """An audit hook that kills the process before it changes a file system for the time `number`, counted from 0."""
    done = itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in _CHANGES) and next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def epoch_of(run: Path, name: str) -> int:
    """The epoch whose checkpoint `name` is; its bytes are compared with their hashes."""
    return int(load_checkpoint(run, name)[1]["progress"]["epoch"])


@pytest.mark.parametrize(
    "accuracies",
    [
        pytest.param([0.2, 0.5, 0.4], id="improved"),
        pytest.param([0.5, 0.2, 0.4], id="not improved", marks=pytest.mark.slow),
    ],
)
def test_a_save_can_be_killed_before_any_file_operation(
    accuracies: list[float], tiny_path: Path, tmp_path: Path
) -> None:
    run, copies = tmp_path / "run", tmp_path / "copies"
    copies.mkdir()
    assert forked(killed_at_every_operation, tiny_path, run, copies, accuracies) == 0
    killed = sorted(copies.iterdir())
    improved = accuracies[1] > accuracies[0]
    assert len(killed) > 15
    kinds: dict[tuple[Any, ...], Path] = {}
    for copy in killed:
        last, best = epoch_of(copy, "last"), epoch_of(copy, "best")
        assert last in (1, 2), copy
        # Never the other way round: a resumed run would not write it again.
        assert best in ((last, 2) if improved else (1,)), copy
        assert len(metrics_of(copy)) >= last, copy
        names = tuple(sorted(path.name for path in (copy / "checkpoints").iterdir()))
        kinds.setdefault((last, best, len(metrics_of(copy)), names), copy)
    assert {epoch_of(copy, "last") for copy in killed} == {1, 2}
    assert len(kinds) > 4
    for copy in kinds.values():
        done = epoch_of(copy, "last")
        hooks = validated(accuracies[done:])
        train(ShardSet.open(tiny_path), copy, RECIPE, device="cpu", resume=True, options=OPTIONS, hooks=hooks)
        assert difference(state_of(copy), state_of(run)) == [], copy
        assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["best", "epoch-0003", "last"], copy
        assert epoch_of(copy, "best") == epoch_of(run, "best") == (2 if improved else 1)


def test_an_improved_epoch_is_written_once(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, dataclasses.replace(RECIPE, epochs=1), device="cpu", options=OPTIONS, hooks=SMALL)
    for name in ("model.safetensors", "training.safetensors", "state.pt", "xxh3_64.json"):
        files = [RunFolder(run).checkpoint(checkpoint) / name for checkpoint in ("last", "best", "epoch-0001")]
        assert {file.stat().st_ino for file in files} == {files[0].stat().st_ino}
    # A link, and yet not touched by what is saved next.
    save_checkpoint(run, "last", {"weight": torch.zeros(3)}, {"progress": {"epoch": 7}})
    assert (epoch_of(run, "last"), epoch_of(run, "best"), epoch_of(run, "epoch-0001")) == (7, 1, 1)


def test_a_disk_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    save_checkpoint(tmp_path, "last", {"weight": torch.ones(3)}, {"progress": {"epoch": 1}}, also=["best"])
    last, best = (RunFolder(tmp_path).checkpoint(name) / "state.pt" for name in ("last", "best"))
    assert last.stat().st_ino != best.stat().st_ino
    assert last.read_bytes() == best.read_bytes()
    assert epoch_of(tmp_path, "best") == 1


def test_a_log_that_can_not_be_written_leaves_all_names_as_they_were(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "last", {"weight": torch.ones(3)}, {"progress": {"epoch": 1}})

    def full() -> None:
        assert not has_checkpoint(tmp_path, "best")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        UserError,
        match=r"could not be written \(No space left.*; free space there, then .*the one before it is complete",
    ):
        save_checkpoint(
            tmp_path, "last", {"weight": torch.ones(3)}, {"progress": {"epoch": 2}}, also=["best"], log=full
        )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last"]
    assert epoch_of(tmp_path, "last") == 1
