"""Whole runs: every recipe, under torchrun, with the logs and checkpoints that were asked for."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import safetensors.torch
import torch

from food101_fast.models import build_model
from food101_fast.runs.checkpoint import load_checkpoint
from food101_fast.runs.results import read_metrics
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet
from food101_fast.train import RECIPES, Recipe, RunOptions, train
from food101_fast.train.logs import MetricsLog

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=3, batch_size=8, learning_rate=1e-3)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.method == "finetune"])
def test_every_recipe_trains(name: str, tiny_shards: ShardSet, tmp_path: Path) -> None:
    """On tiny images and a small model, but with everything else it has."""
    recipe = RECIPES[name]
    grows = recipe.start_size is not None
    small = dataclasses.replace(
        recipe, model="shufflenet_v2_x0_5", weights="none", image_size=64 if grows else 32,
        start_size=32 if grows else None, batch_size=16, epochs=min(recipe.epochs, 4),
        unfreeze_epochs=min(recipe.unfreeze_epochs, 2),
    )  # fmt: skip
    result = train(tiny_shards, tmp_path / "run", small, device="cpu")
    assert result.stopped_by is None
    assert len(result.metrics) == small.epochs
    assert result.steps == small.epochs * 3
    assert all(0 < row.train_loss < 10 and row.skipped_steps == 0 for row in result.metrics)
    assert result.metrics[-1].image_size == small.image_size
    assert read_run(tmp_path / "run").recipe == small


def test_baseline_starts_from_weights_in_a_file(tiny_shards: ShardSet, tmp_path: Path) -> None:
    """Trained on other shards, with another number of classes: the head is new, all else is the file's."""
    other = build_model("mobilenet_v2", "none", 8)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({key: value + 0.25 for key, value in other.state_dict().items()}, path)
    start = build_model("mobilenet_v2", str(path), 3).state_dict()
    recipe = dataclasses.replace(RECIPES["baseline"], weights=str(path), image_size=32, batch_size=16, epochs=1)
    train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, learning_rate=1e-30), device="cpu")
    trained, _ = load_checkpoint(tmp_path / "run", "last")
    statistics = {key for key in trained if "running" in key or "tracked" in key}
    for key in trained.keys() - statistics:
        if key.startswith("classifier.1."):
            assert trained[key].shape[0] == 3
        else:
            assert torch.equal(trained[key], start[key]), key
            assert torch.equal(trained[key], other.state_dict()[key] + 0.25), key


def torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning:food101_fast"}
    return subprocess.run(
        [*command, "-m", "food101_fast.train", "--", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_torchrun_trains_on_all_ranks_and_prints_once(tiny_path: Path, tmp_path: Path) -> None:
    flags = "--recipe demo --model shufflenet_v2_x0_5 --image-size 32 --batch-size 8 --device cpu --ema-decay 0.9"
    run = tmp_path / "run"
    done = torchrun(2, "--shards", str(tiny_path), "--run", str(run), "--epochs", "2", *flags.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: python -m food101_fast.evaluate") == 1
    assert done.stdout.count("best epoch") == 1
    assert "Warning" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert [row["epoch"] for row in metrics(run)] == [1, 2]


@pytest.mark.slow  # a quarter of a minute; test_resume resumes ranks
def test_torchrun_resumes(tiny_path: Path, tmp_path: Path) -> None:
    flags = "--recipe demo --model shufflenet_v2_x0_5 --image-size 32 --batch-size 8 --device cpu --epochs 1"
    run = tmp_path / "run"
    for more in (flags.split(), ("--epochs", "2", "--resume")):
        done = torchrun(2, "--shards", str(tiny_path), "--run", str(run), *more)
        assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in metrics(run)] == [1, 2]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]


def test_the_command_says_how_to_go_on(
    tiny_path: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from food101_fast.train.step import TrainStep

    update, count = TrainStep.update, iter(range(1000))

    def signalled(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> Any:
        if next(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, images, labels)

    run = tmp_path / "run"
    arguments = ["--shards", str(tiny_path), "--run", str(run), "--device", "cpu"]
    flags = ["--recipe", "demo", "--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "update", signalled)
        code, out, _ = command("train", *arguments, *flags, "--epochs", "1")
    assert code == 0
    line = out.splitlines()[-1]
    go_on = f"python -m food101_fast.train --shards {tiny_path} --run {run} --resume"
    assert line == f"stopped by SIGTERM after step 5, with a checkpoint; resume with: {go_on}"
    code, out, _ = command(*go_on.replace("python -m food101_fast.", "").split())
    assert code == 0
    for word in ("best epoch", "validation top-1", "images per second", "waiting for data", "peak memory", "time"):
        assert f"  {word} " in out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_logs_agree_and_are_never_doubled(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, dataclasses.replace(TINY, epochs=2), device="cpu")
    # A line of an epoch whose checkpoint was never written, as after a kill between the two.
    MetricsLog(run, 2).append(dataclasses.replace(read_metrics(run)[1], epoch=3, val_top1=9.0))
    train(tiny_shards, run, TINY, device="cpu", resume=True)
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["val_top1"] <= 1
    with (run / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    for row, line in zip(rows, table, strict=True):
        assert float(line["val_loss"]) == row["val_loss"]
        assert float(line["timing.images_per_second"]) == row["timing"]["images_per_second"]
        assert "timing.loader" not in line


def test_the_newest_epochs_are_kept(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, TINY, device="cpu", options=RunOptions(keep=2))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best", "epoch-0002", "epoch-0003", "last"]
    for epoch in (2, 3):
        assert load_checkpoint(run, f"epoch-{epoch:04d}")[1]["progress"]["epoch"] == epoch
    train(tiny_shards, run, dataclasses.replace(TINY, epochs=4), device="cpu", resume=True, options=RunOptions(keep=1))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "epoch-0004", "last"]


def test_tensorboard_has_every_step_once(tiny_shards: ShardSet, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    EventAccumulator = importlib.import_module(  # noqa: N806
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    run, options = tmp_path / "run", RunOptions(tensorboard=True, log_steps=2)
    for epochs in (1, 2):
        recipe = dataclasses.replace(TINY, epochs=epochs)
        train(tiny_shards, run, recipe, device="cpu", resume=epochs > 1, options=options)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 7, 8, 10, 12, 14]
    assert [event.value for event in events.Scalars("validation/top1")] == pytest.approx(
        [row["val_top1"] for row in metrics(run)]
    )


def test_tensorboard_without_its_extra_is_one_sentence(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from food101_fast.errors import UserError

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"--tensorboard needs the extra: pip install 'food101-fast\[tensorboard\]'"):
        train(tiny_shards, tmp_path / "run", TINY, device="cpu", options=RunOptions(tensorboard=True))
    assert not (tmp_path / "run").exists()
