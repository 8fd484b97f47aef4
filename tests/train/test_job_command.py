"""One command for job scripts: it begins a run, goes on with it, and does nothing where it has ended."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import food101_fast.train.job
from food101_fast.errors import UserError
from food101_fast.runs import Recipe, RunFolder, read_run
from food101_fast.runs.recipe_files import recipe_toml
from food101_fast.runs.run import locked_run
from food101_fast.shards import ShardSet
from food101_fast.train import RunOptions, train
from food101_fast.train.schedule import lr_factor, stretched
from food101_fast.train.step import TrainStep
from tests.conftest import contents, flip
from tests.train.launch import Job, start
from tests.train.test_resume import RECIPE, STEPS, difference, state_of

Command = Callable[..., tuple[int, str, str]]

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=16, learning_rate=1e-3)


@pytest.fixture
def job(tiny_path: Path, tmp_path: Path) -> tuple[str, ...]:
    """The command of a job script."""
    (tmp_path / "tiny.toml").write_text(recipe_toml(TINY))
    recipe = ("--recipe", str(tmp_path / "tiny.toml"), "--checkpoint-steps", "1")
    return ("train", "--shards", str(tiny_path), "--run", str(tmp_path / "run"), "--device", "cpu", "--resume", *recipe)


class StoppedError(Exception):
    """As a kill, within this process."""


def stopped_in_step(number: int, command: Command, *arguments: str) -> None:
    """Run a command that is killed in the step of this number, counted from its start."""
    update, count = TrainStep.update, iter(range(1000))

    def counted(self: TrainStep, *arguments: Any, **named: Any) -> Any:
        if next(count) == number:
            raise StoppedError
        return update(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "update", counted)
        with pytest.raises(StoppedError):
            command(*arguments)


def test_one_command_begins_goes_on_and_ends(job: tuple[str, ...], tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    whole = tmp_path / "whole"
    for step in (0, 2, 1):  # before the first checkpoint; then in the first epoch; then in the second
        stopped_in_step(step, command, *job)
    code, out, _ = command(*job)
    assert code == 0
    assert "resumed after step 3, in epoch 2" in out
    train(ShardSet.open(job[2]), whole, TINY, device="cpu")
    assert difference(state_of(run), state_of(whole)) == []

    before = contents(run)
    code, out, _ = command(*job)
    assert code == 0
    assert "this run is finished: it trained 2 of 2 epochs" in out
    assert str(run / "report.html") in out
    assert contents(run) == before
    # The folder could have been copied without it, or the job was killed before it was written.
    (run / "report.html").unlink()
    code, out, err = command(*job, "--json", "--quiet")
    assert (code, err) == (0, "")
    result = orjson.loads(out)
    assert (result["steps"], result["epochs"], result["stopped_by"]) == (6, 2, None)
    assert result["report"] == str(run / "report.html")
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    "left", [(), ("recipe.json",), ("recipe.json.77.tmp", ".lock"), ("nonfinite.json", "recipe.json")]
)
def test_what_ended_before_its_first_checkpoint_is_begun(
    left: tuple[str, ...], tiny_path: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_bytes((tiny_run / "recipe.json").read_bytes())
    (run / "checkpoints" / "last.new").mkdir(parents=True)
    recipe = dataclasses.replace(TINY, epochs=1, seed=3)  # not that of the file
    assert train(ShardSet.open(tiny_path), run, recipe, device="cpu", resume=True).steps == 3
    assert read_run(run).recipe == recipe
    assert not RunFolder(run).nonfinite.exists()


def test_a_stored_recipe_is_used_where_none_is_given(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    """Also of a run that has no checkpoint yet."""
    arguments = ("train", "--shards", str(tiny_path), "--run", str(tmp_path / "run"), "--device", "cpu")
    flags = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--batch-size", "16")
    stopped_in_step(0, command, *arguments, *flags)
    assert command(*arguments, "--resume", "--epochs", "1")[0] == 0
    recipe = read_run(tmp_path / "run").recipe
    assert (recipe.image_size, recipe.epochs) == (32, 1)
    # Equal flags are accepted.
    assert command(*arguments, *flags, "--resume")[0] == 0


def test_all_that_differs_is_one_sentence(tiny_run: Path, tiny_path: Path, command: Command) -> None:
    arguments = ("train", "--shards", str(tiny_path), "--run", str(tiny_run), "--device", "cpu", "--resume")
    before = contents(tiny_run)
    code, out, err = command(*arguments, "--batch-size", "16", "--seed", "0", "--no-tf32", "--epochs", "9")
    assert (code, out) == (2, "")
    assert err == (
        f"error: {tiny_run} can't be resumed with --batch-size 16 (it was trained with 8), --tf32 False (it was "
        "trained with True); give the same, or another --run\n"
    )
    assert command(*arguments, "--recipe", "unfreeze")[2].count("it was trained with") > 5
    assert contents(tiny_run) == before


@pytest.mark.parametrize("name", ["recipe.json", "checkpoints/last/state.pt", "checkpoints/last/model.safetensors"])
def test_what_is_damaged_is_refused(
    name: str, job: tuple[str, ...], tiny_shards: ShardSet, tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, dataclasses.replace(TINY, epochs=1), device="cpu")
    flip(run / name, 0)
    before = contents(run)
    code, _, err = command(*job)
    assert code == 2
    assert f"{run / name} is damaged" in err.splitlines()[-1]
    assert contents(run) == before


def test_checkpoints_without_the_last_are_not_written_over(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, dataclasses.replace(TINY, epochs=1), device="cpu", options=RunOptions(keep=1))
    for name in ("last", "best"):
        RunFolder(run).checkpoint(name).rename(tmp_path / name)
    for resume, message in ((True, "only epoch-0001; copy one of these"), (False, "already has a run")):
        with pytest.raises(UserError, match=message):
            train(tiny_shards, run, TINY, device="cpu", resume=resume)


def test_a_locked_folder_is_left_alone(job: tuple[str, ...], tmp_path: Path, command: Command) -> None:
    with locked_run(tmp_path / "run"):
        code, _, err = command(*job)
    assert code == 2
    assert "another process" in err


def test_auto_batch_is_for_the_beginning(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def largest(context: Any, samples: int) -> Any:
        found.append(samples)
        return dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, batch_size=8))

    monkeypatch.setattr(food101_fast.train.job, "with_largest_batch", largest)
    for epochs in (1, 2):
        recipe = dataclasses.replace(TINY, epochs=epochs)
        train(tiny_shards, tmp_path / "run", recipe, device="cpu", resume=True, auto_batch=True)
        assert read_run(tmp_path / "run").recipe == dataclasses.replace(recipe, batch_size=8)
    assert len(found) == 1


@pytest.mark.slow  # test_resume kills runs in the suite
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_steps_and_started_again_by_the_same_call(ranks: int, tiny_path: Path, tmp_path: Path) -> None:
    """Until it has ended, and once more."""
    recipe = dataclasses.replace(RECIPE, unfreeze_epochs=0, start_size=None, image_size=32)
    whole = Job(shards=tiny_path, run=tmp_path / "whole", recipe=recipe)
    assert start(whole, ranks) == [0] * ranks
    job = dataclasses.replace(whole, run=tmp_path / "run", resume=True, options=RunOptions(checkpoint_steps=2))
    for step in (1, *sorted(random.Random(ranks).sample(range(2, 2 * STEPS), 2))):  # at 1 there is no checkpoint yet
        assert -signal.SIGKILL in start(dataclasses.replace(job, kill_before_step=step), ranks), step
    for _ in range(2):
        assert start(job, ranks) == [0] * ranks
        assert difference(state_of(job.run), state_of(whole.run)) == []


@pytest.mark.slow
def test_killed_at_random_moments_and_started_again_by_the_same_command(job: tuple[str, ...], tmp_path: Path) -> None:
    """In real processes, wherever they are: importing, beginning, within a step, saving, writing the report."""
    train(ShardSet.open(job[2]), tmp_path / "whole", TINY, device="cpu")
    program = [sys.executable, "-m", "food101_fast.train", *job[1:]]
    chance, ended = random.Random(0), 1
    for _ in range(3):
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 4)):  # lines: the begin, the network, the first epoch
            process.stdout.readline()
        process.kill()
        process.communicate()
    while ended:
        ended = subprocess.run(program, stdout=subprocess.DEVNULL, check=False).returncode
    assert difference(state_of(tmp_path / "run"), state_of(tmp_path / "whole")) == []
    assert (tmp_path / "run" / "report.html").exists()


COSINE = Recipe(schedule="cosine", epochs=10, learning_rate=1e-3)


def test_a_stretched_schedule_says_both_rates() -> None:
    """As it is trained: the last rate so far, and that of the next step."""
    longer = dataclasses.replace(COSINE, epochs=20)
    said = stretched(COSINE, longer, 100, 10)
    assert said == (
        "--epochs 20 instead of 10: the cosine schedule is stretched, so the learning rate rises from 2.5e-7 to 5e-4"
    )
    assert lr_factor(COSINE, 99, 10) == pytest.approx(2.5e-4, rel=0.02)
    assert lr_factor(longer, 100, 10) == pytest.approx(0.5)
    assert stretched(longer, COSINE, 50, 10) == (
        "--epochs 10 instead of 20: the cosine schedule is shortened, so the learning rate falls from 8.6e-4 to 5e-4"
    )


@pytest.mark.parametrize("schedule", ["exponential", "constant"])
def test_a_schedule_that_goes_on_says_nothing(schedule: Any) -> None:
    recipe = dataclasses.replace(COSINE, schedule=schedule)
    assert stretched(recipe, dataclasses.replace(recipe, epochs=20), 100, 10) is None
    assert stretched(COSINE, dataclasses.replace(COSINE, patience=9), 100, 10) is None


def test_images_that_shrink_are_named() -> None:
    recipe = Recipe(start_size=96, image_size=160, epochs=4)
    assert stretched(recipe, dataclasses.replace(recipe, epochs=8), 4, 1) == (
        "--epochs 8 instead of 4: the schedule of image sizes is stretched, so images shrink from 160 to 128 px"
    )


def test_the_jump_is_said_until_a_checkpoint_has_it(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    recipe = dataclasses.replace(TINY, schedule="cosine", epochs=1)
    train(ShardSet.open(tiny_path), tmp_path / "run", recipe, device="cpu")
    longer = ("train", "--shards", str(tiny_path), "--run", str(tmp_path / "run"), "--device", "cpu", "--resume")
    stopped_in_step(0, command, *longer, "--epochs", "2")  # recipe.json now has two epochs, and the checkpoint one
    code, out, err = command(*longer, "--epochs", "2")
    assert code == 0
    assert "resumed with --epochs 2 instead of 1" in out
    assert err.count("the cosine schedule is stretched, so the learning rate rises from 2.5e-4 to 5e-4") == 2
    assert "stretched" not in command(*longer)[2]
