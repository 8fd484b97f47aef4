"""Training on a CUDA device: a step never waits for it, compiles as often as planned, and names what fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train.distributed import World
from food101_fast.train.memory import fit_batch
from food101_fast.train.meter import EpochMeter
from food101_fast.train.model import build_model
from food101_fast.train.step import TrainStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8, learning_rate=1e-3)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """torch raises where an operation waits for the device; set by a test when it has warmed up."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", ["fp16", "bf16", "off"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_step_never_waits_for_the_device(amp: str, optimizer: str, compiled: str, no_waiting: None) -> None:
    device = torch.device("cuda", 0)
    recipe = dataclasses.replace(
        TINY, amp=amp, optimizer=optimizer, compile=compiled, ema_decay=0.9, clip_norm=1.0, preset="trivial"
    )
    step = TrainStep(recipe, build_model(recipe.model, "none", 3), device, 3)
    step.train_mode()
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    numbers = torch.arange(8, device=device)
    batch = Batch(images, numbers % 3, numbers)
    for number in range(3):
        step.prepare(number, 1.0)
        step(batch, 0)
    torch.cuda.set_sync_debug_mode("error")
    step.prepare(3, 0.5)
    loss, correct = step(batch, 1)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)
    assert 0 <= correct <= 8


def test_a_resumed_run_goes_on_with_the_same_samples(tiny_shards: ShardSet, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, compile="on")
    whole = train(tiny_shards, tmp_path / "whole", recipe, device="cuda").metrics
    train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, epochs=1), device="cuda")
    resumed = train(tiny_shards, tmp_path / "run", recipe, device="cuda", resume=True).metrics
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    # CUDA kernels may add up in another order each time.
    assert resumed[1]["train_loss"] == pytest.approx(whole[1]["train_loss"], rel=0.05)
    assert whole[0]["timing"]["compile_seconds"] > 0
    assert whole[1]["timing"]["compile_seconds"] == 0


def test_auto_measures_steps_before_it_compiles(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With compilations that take no time, and with those that take a year."""
    recipe = dataclasses.replace(TINY, epochs=8, compile="auto", patience=None)
    for seconds, chosen in ((0.0, "on"), (3e7, "off")):
        monkeypatch.setattr("food101_fast.train.compiling._COMPILE_SECONDS", seconds)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / f"compiled {chosen}"))
        timings = [row["timing"] for row in train(tiny_shards, tmp_path / chosen, recipe, device="cuda").metrics]
        assert f"compile: {chosen}, " in "".join(capfd.readouterr())
        # 40 steps of 7 in an epoch: in the sixth, when the choice is made, and in validation after it.
        assert [timing["compile_seconds"] > 0 for timing in timings] == [False] * 5 + [chosen == "on"] + [False] * 2


def test_memory_that_is_too_small_is_measured(tiny_shards: ShardSet, tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    try:
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, 600e6 / total), device)
        assert free > 600e6
        recipe = dataclasses.replace(TINY, model="resnet18", image_size=224, batch_size=56, compile="off")
        fits = fit_batch(recipe, device, 3, 32, 1024, World())
        assert 2 <= fits < 1024
        with pytest.raises(UserError, match="out of device memory with --batch-size 56"):
            train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, image_size=1024), device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def test_sums_stay_on_the_device(tiny_shards: ShardSet, no_waiting: None) -> None:
    from food101_fast.loader import ShardLoader

    loader = ShardLoader(tiny_shards, split="train", batch_size=8, device="cuda")
    meter = EpochMeter(loader, World())
    loss, correct = torch.tensor(1.5, device="cuda").double(), torch.tensor(3.0, device="cuda").double()
    torch.cuda.set_sync_debug_mode("error")
    meter.add(loss, correct, 8)
    torch.cuda.set_sync_debug_mode("default")
    assert meter.results() == {"train_loss": 1.5, "train_top1": 3 / 8}
