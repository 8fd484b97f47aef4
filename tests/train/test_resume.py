"""A run that was killed, stopped or moved to other ranks ends as one that was never interrupted."""

from __future__ import annotations

import dataclasses
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import safetensors.torch
import torch

from food101_fast.runs.checkpoint import has_checkpoint
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, RunOptions
from tests.train.launch import Job, start

# With everything that has a state: dropout, running statistics, an average, momentum, a schedule, sizes, frozen layers;
# and with repeated images.
RECIPE = Recipe(
    model="mnasnet0_5", weights="none", image_size=64, start_size=32, preset="strong", epochs=2, batch_size=6,
    optimizer="adamw", learning_rate=1e-3, schedule="cosine", warmup_epochs=0.5, weight_decay=0.01, ema_decay=0.9,
    unfreeze_epochs=1, accumulate=1, class_balance="sampling",
)  # fmt: skip
STEPS = 9  # in an epoch of the 58 training images
EVERY = RunOptions(checkpoint_steps=2)


def state_of(run: Path) -> dict[str, Any]:
    """All that a run ends with, but for times."""
    folder = run / "checkpoints" / "last"
    state = torch.load(folder / "state.pt", weights_only=True)
    state["loader"] = {key: value for key, value in state["loader"].items() if key != "version"}
    files = {file.name: safetensors.torch.load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return {"state": state, "files": files, "metrics": metrics_of(run)}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    rows = [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    return [{key: value for key, value in row.items() if key != "timing"} for row in rows]


def difference(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nests of tensors and numbers are not the same to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = a.keys() | b.keys()
        return [text for key in sorted(keys, key=str) for text in difference(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [text for index, pair in pairs for text in difference(*pair, f"{path}/{index}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    return [] if a == b else [f"{path}: {a} is not {b}"]


@pytest.fixture(scope="module")
def whole(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that were never interrupted, on one and two ranks; without checkpoints in the middle."""
    runs = {}
    for ranks in (1, 2):
        runs[ranks] = tmp_path_factory.mktemp("whole") / "run"
        assert start(Job(shards=tiny_path, run=runs[ranks], recipe=RECIPE), ranks) == [0] * ranks
    return runs


def test_the_recipe_has_all_that_could_go_wrong(whole: dict[int, Path]) -> None:
    files = state_of(whole[1])["files"]
    assert difference(files["model.safetensors"], files["training.safetensors"])
    assert [row["image_size"] for row in metrics_of(whole[1])] == [32, 64]
    assert [row["step"] for row in metrics_of(whole[1])] == [STEPS, 2 * STEPS]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_steps_and_resumed_is_the_same_to_the_bit(
    ranks: int, whole: dict[int, Path], tiny_path: Path, tmp_path: Path
) -> None:
    steps = sorted(random.Random(ranks).sample(range(1, 2 * STEPS), 5))
    run = tmp_path / "run"
    for step in steps:
        job = Job(shards=tiny_path, run=run, recipe=RECIPE, resume=has_checkpoint(run, "last"), options=EVERY)
        assert -signal.SIGKILL in start(dataclasses.replace(job, kill_before_step=step), ranks), step
    job = Job(shards=tiny_path, run=run, recipe=RECIPE, resume=True, options=EVERY)
    assert start(job, ranks) == [0] * ranks
    assert difference(state_of(run), state_of(whole[ranks])) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(
    number: signal.Signals, whole: dict[int, Path], tiny_path: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = Job(shards=tiny_path, run=run, recipe=RECIPE)
    assert start(dataclasses.replace(job, send=(number, 4))) == [0]
    state = torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)
    assert state["progress"] == {"epoch": 0, "step": 5, "best_top1": -1.0, "epochs_since_best": 0}
    assert start(dataclasses.replace(job, send=(number, 2 * STEPS - 1), resume=True)) == [0]
    # In the last step: nothing is validated, and the second start does just that.
    assert len(metrics_of(run)) == 1
    assert start(dataclasses.replace(job, resume=True)) == [0]
    assert difference(state_of(run), state_of(whole[1])) == []


def test_a_full_disk_leaves_the_last_checkpoint(whole: dict[int, Path], tiny_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = Job(shards=tiny_path, run=run, recipe=RECIPE, options=EVERY)
    assert start(dataclasses.replace(job, full_disk_from_step=STEPS + 2)) == [1]
    assert not list((run / "checkpoints").glob("*.new"))
    state = torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 10
    assert start(dataclasses.replace(job, resume=True)) == [0]
    assert difference(state_of(run), state_of(whole[1])) == []


def test_a_signal_to_one_rank_stops_all(whole: dict[int, Path], tiny_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = Job(shards=tiny_path, run=run, recipe=RECIPE)
    assert start(dataclasses.replace(job, send=(signal.SIGTERM, 3)), ranks=2) == [0, 0]
    state = torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 10  # where ranks agree
    assert start(dataclasses.replace(job, resume=True), ranks=2) == [0, 0]
    assert difference(state_of(run), state_of(whole[2])) == []


PLAIN = dataclasses.replace(RECIPE, start_size=None, image_size=32, unfreeze_epochs=0, clip_norm=1.0)


def notes_of(path: Path) -> dict[int, tuple[list[int], np.ndarray]]:
    """Of each step the ids over all ranks and the gradients' beginning."""
    lines = sorted((orjson.loads(line) for line in path.read_bytes().splitlines()), key=lambda line: line["rank"])
    steps: dict[int, tuple[list[int], np.ndarray]] = {}
    for line in lines:
        ids = steps[line["step"]][0] if line["step"] in steps else []
        steps[line["step"]] = (ids + line["ids"], np.array(line["gradients"]))
    return steps


def test_ranks_change_nothing_but_rounding(tiny_path: Path, tmp_path: Path) -> None:
    """One rank, two, and two, then one, then two: the same order, gradients, metrics and weights."""
    runs: dict[str, Path] = {name: tmp_path / name for name in ("one", "two", "changing")}
    job = Job(shards=tiny_path, run=runs["one"], recipe=PLAIN, plain=True, notes=tmp_path / "one.jsonl")
    assert start(job) == [0]
    assert start(dataclasses.replace(job, run=runs["two"], notes=tmp_path / "two.jsonl"), ranks=2) == [0, 0]
    changing = dataclasses.replace(job, run=runs["changing"], notes=tmp_path / "changing.jsonl")
    assert start(dataclasses.replace(changing, send=(signal.SIGTERM, 3)), ranks=2) == [0, 0]
    assert start(dataclasses.replace(changing, send=(signal.SIGTERM, 13), resume=True), ranks=1) == [0]
    assert start(dataclasses.replace(changing, resume=True), ranks=2) == [0, 0]

    one = notes_of(tmp_path / "one.jsonl")
    assert sorted(one) == list(range(2 * STEPS))
    for name in ("two", "changing"):
        other = notes_of(tmp_path / f"{name}.jsonl")
        assert {step: ids for step, (ids, _) in other.items()} == {step: ids for step, (ids, _) in one.items()}
        np.testing.assert_allclose(other[0][1], one[0][1], atol=1e-5, rtol=0)
        assert np.abs(one[0][1]).max() > 1e-3  # there is something to compare
        a, b = (safetensors.torch.load_file(runs[x] / "checkpoints/last/training.safetensors") for x in ("one", name))
        for key in a:
            torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=0)


def test_evaluation_is_the_same_to_the_digit_on_any_number_of_ranks(tiny_path: Path, tmp_path: Path) -> None:
    """With weights that were never trained, so that only evaluation can differ."""
    recipe = dataclasses.replace(PLAIN, epochs=1, learning_rate=1e-30, ema_decay=None, batch_size=12)
    rows = {}
    for ranks in (1, 2, 3):
        run = tmp_path / f"{ranks}"
        assert start(Job(shards=tiny_path, run=run, recipe=recipe, plain=True), ranks) == [0] * ranks
        rows[ranks] = {key: value for key, value in metrics_of(run)[0].items() if key.startswith("val_")}
    assert rows[1] == rows[2] == rows[3]
    assert 0 < rows[1]["val_loss"] < 5


def test_a_batch_that_can_not_be_divided_is_one_sentence(tiny_shards: ShardSet, tmp_path: Path) -> None:
    from food101_fast.errors import UserError
    from food101_fast.train import train

    with pytest.raises(UserError, match=r"--batch-size 6 .* is not a multiple of --accumulate 4; choose"):
        train(tiny_shards, tmp_path / "run", dataclasses.replace(RECIPE, accumulate=4), device="cpu")
