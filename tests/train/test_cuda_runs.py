"""Whole runs on a CUDA device, with what recipes can add to the plain step: they find what runs on the CPU find."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from food101_fast.compute.device import set_up_device
from food101_fast.runs.probe import read_probe
from food101_fast.runs.results import EpochRow
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train
from food101_fast.train.lr_range import find_lr
from food101_fast.train.replay.job import replay
from tests.cuda_device import chosen, harmless_warnings, needs_cuda
from tests.train.launch import plain_model

pytestmark = [needs_cuda, *harmless_warnings]

# In float32 and without BatchNorm: that of a ShuffleNet, over 8 images of one pixel, gave other losses on an H200.
TINY = Recipe(
    model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8, learning_rate=1e-3, amp="off",
    tf32=False, compile="off", patience=None,
)  # fmt: skip
PLAIN = Hooks(build_model=plain_model)

ADDED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "class weights": {"class_balance": "weights"},
    "sampling": {"class_balance": "sampling"},
    "logit adjustment": {"class_balance": "logit-adjust"},
    "bce and mixed images": {"loss": "bce", "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "erasing": 0.25},
    "focal": {"loss": "focal"},
    "augmix": {"preset": "augmix"},
    "autoaugment": {"preset": "autoaugment"},
    "a frozen backbone": {"freeze": 2, "layer_decay": 0.8, "optimizer": "adamw"},
    "a transformer of timm": {"model": "timm/test_vit", "optimizer": "adamw", "drop_path": 0.1},
}


def rows_of(shards: ShardSet, folder: Path, recipe: Recipe, device: Any, hooks: Hooks | None = PLAIN) -> list[EpochRow]:
    return train(shards, folder, recipe, device=device, hooks=hooks).metrics


def check_same(found: list[EpochRow], expected: list[EpochRow]) -> None:
    """The same samples in both; losses as far as other kernels round otherwise."""
    for one, other in zip(found, expected, strict=True):
        assert one.step == other.step
        assert one.skipped_steps == 0
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-3)


@pytest.mark.parametrize("added", ADDED)
def test_a_run_trains_as_on_the_cpu(
    added: str, tiny_shards: ShardSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its step is a CUDA graph, which is the default there."""
    chosen("cuda")
    recipe = dataclasses.replace(TINY, **ADDED[added])
    hooks = None if "model" in ADDED[added] else PLAIN
    expected = rows_of(tiny_shards, tmp_path / "cpu", recipe, "cpu", hooks)
    capfd.readouterr()
    found = rows_of(tiny_shards, tmp_path / "cuda", recipe, "cuda", hooks)
    assert "cuda graph: off" not in "".join(capfd.readouterr())
    if added == "a transformer of timm":  # each draws layers to drop on its own device
        assert [row.step for row in found] == [row.step for row in expected]
        assert all(math.isfinite(row.train_loss) for row in found)
    else:
        check_same(found, expected)


def test_a_teacher_teaches_on_its_students_device(tiny_shards: ShardSet, tiny_run: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, teacher=(str(tiny_run),), teacher_weight=0.7)
    expected = rows_of(tiny_shards, tmp_path / "cpu", recipe, "cpu")
    check_same(rows_of(tiny_shards, tmp_path / "cuda", recipe, "cuda"), expected)


def test_a_probe_finds_the_classifier_of_the_cpu(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(method="probe", model="shufflenet_v2_x0_5", weights="none", image_size=32, batch_size=16, amp="off")
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / f"cache {device}"))
        (row,) = rows_of(tiny_shards, tmp_path / device, dataclasses.replace(recipe, tf32=False), device, None)
        found[device] = (row, read_probe(tmp_path / device))
    assert found["cuda"][0].train_loss == pytest.approx(found["cpu"][0].train_loss, rel=0.01)
    assert found["cuda"][0].val_loss == pytest.approx(found["cpu"][0].val_loss, rel=0.01)
    assert found["cuda"][1].best.weight_decay == found["cpu"][1].best.weight_decay


def test_the_range_test_sees_the_losses_of_the_cpu(tiny_shards: ShardSet) -> None:
    """Up to where the rate begins to matter."""
    found = [find_lr(tiny_shards, TINY, device=device, hooks=PLAIN) for device in ("cpu", "cuda")]
    assert found[1].rates[:40] == pytest.approx(found[0].rates[:40])
    assert found[1].losses[:40] == pytest.approx(found[0].losses[:40], rel=1e-3)


def test_a_step_of_a_run_is_replayed(tiny_shards: ShardSet, tmp_path: Path) -> None:
    """On both devices, with nearly the same loss: the run's checkpoint was written on CUDA."""
    rows_of(tiny_shards, tmp_path / "run", TINY, "cuda")
    step = len(tiny_shards.split("train")) // TINY.batch_size + 1  # the second of the second epoch
    on_cuda, batch, images, _ = replay(tmp_path / "run", step, device=chosen("cuda"), hooks=PLAIN)
    on_cpu, same_batch, _, _ = replay(tmp_path / "run", step, device=torch.device("cpu"), hooks=PLAIN)
    assert images.device.type == "cuda"
    assert batch.ids.tolist() == same_batch.ids.tolist()
    assert on_cuda.measured.loss == pytest.approx(on_cpu.measured.loss, rel=1e-3)
    assert on_cuda.measured.gradient_norm == pytest.approx(on_cpu.measured.gradient_norm, rel=1e-3)


def test_float32_without_tf32_is_float32() -> None:
    """The kinds of layers that networks are made of, in training, compared with float64."""
    where = torch.device("cuda", 0)
    set_up_device(where, tf32=False)
    torch.manual_seed(0)
    images = torch.randn(8, 32, 16, 16)
    layers = {
        "wide": nn.Conv2d(32, 32, 3, padding=1),
        "point": nn.Conv2d(32, 64, 1),
        "depth": nn.Conv2d(32, 32, 3, padding=1, groups=32),
        "norm": nn.BatchNorm2d(32),
        "norm of one pixel": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(32)),
        "linear": nn.Sequential(nn.Flatten(), nn.Linear(32 * 16 * 16, 7)),
    }
    for name, layer in layers.items():
        expected = copy.deepcopy(layer).double()(images.double())
        moved = layer.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = moved(images.to(where, memory_format=torch.channels_last)).cpu().double()
        assert float((found - expected).norm() / expected.norm()) < 1e-5, name
