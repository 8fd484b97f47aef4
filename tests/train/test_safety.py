"""What goes wrong in a run: gradients that are not finite, memory that is too small, and what is said about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.runs.checkpoint import load_checkpoint
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, RunOptions, train
from food101_fast.train.context import TrainContext
from food101_fast.train.memory import fit_batch, is_out_of_memory, largest_batch, trial_steps
from food101_fast.train.step import TrainStep

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8, learning_rate=1e-3)
STEPS = 7  # in an epoch of the 58 training images


def plant(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the images of these steps infinite."""
    augment, count = TrainStep.augment, iter(range(1000))

    def planted(self: TrainStep, *arguments: Any, **named: Any) -> Any:
        images, labels = augment(self, *arguments, **named)
        return (torch.full_like(images, float("inf")) if next(count) in steps else images), labels

    monkeypatch.setattr(TrainStep, "augment", planted)


def test_steps_that_are_not_finite_are_skipped_and_counted(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {2, 3, 9})
    metrics = train(tiny_shards, tmp_path / "run", TINY, device="cpu").metrics
    assert [row.skipped_steps for row in metrics] == [2, 1]
    assert all(0 < row.train_loss < 10 and 0 < row.val_loss < 10 for row in metrics)


def test_a_run_stops_when_gradients_stay_not_finite(
    tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, set(range(9, 100)))
    run = tmp_path / "run"
    with pytest.raises(UserError) as error:
        train(tiny_shards, run, TINY, device="cpu", options=RunOptions(most_skipped=4))
    loader = ShardLoader(tiny_shards, split="train", batch_size=8, seed=TINY.seed)
    loader.set_epoch(1)
    ids = [batch.ids.tolist() for batch in loader][9 - STEPS]
    assert "of 4 steps in a row were not finite, from step 9 on (epoch 2, learning rate 0.00098, sample ids" in str(
        error.value
    )
    assert ", ".join(map(str, ids)) in str(error.value)
    assert orjson.loads((run / "nonfinite.json").read_bytes()) == {
        "step": 9, "epoch": 2, "learning_rate": pytest.approx(0.00098), "ids": ids,
        "command": f"python -m food101_fast.train --run {run} --replay 9",
    }  # fmt: skip
    assert f"look at that step with `python -m food101_fast.train --run {run} --replay 9`" in str(error.value)
    assert load_checkpoint(run, "last")[1]["progress"]["epoch"] == 1


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if an input is non-contiguous."),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other API call"),
]  # fmt: skip


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception = OUT_OF_MEMORY[0]) -> None:
    """A device into which so many images fit."""
    update = TrainStep.update

    def limited(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> Any:
        if len(images) > most:
            raise error
        return update(self, images, labels)

    monkeypatch.setattr(TrainStep, "update", limited)


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:2], ids=["torch", "cuDNN"])
def test_out_of_memory_says_what_fits(
    error: Exception,
    tiny_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    small_memory(monkeypatch, 5, error)
    flags = ["--recipe", "demo", "--image-size", "32", "--batch-size", "24", "--model", "shufflenet_v2_x0_5"]
    code, _, err = command("train", "--shards", str(tiny_path), "--run", str(tmp_path / "run"), *flags)
    assert code == 2
    message = err.splitlines()[-1]
    assert message.startswith("error: out of device memory with --batch-size 24 (24 images of 32 pixels at a time)")
    assert message.endswith(
        "the largest power of two that fits is --batch-size 4; or keep the batch and divide it into chunks with "
        "--accumulate 8"
    )


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_largest_power_of_two_is_found(most: int, below: int) -> None:
    tried = []

    def trial(size: int) -> int:
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError
        return 0

    expected = max((2**n for n in range(10) if 2**n <= most and 2**n < below), default=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("food101_fast.train.memory.release", lambda: None)
        assert largest_batch(trial, below=below) == expected
    assert all(size < below for size in tried)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_what_libraries_say_when_memory_runs_out_is_understood(error: Exception) -> None:
    def trial(size: int) -> int:
        if size > 100:
            raise error
        return 1000 * size

    assert is_out_of_memory(error)
    assert largest_batch(trial, below=5000, capacity=100_000) == 64


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), ValueError("out of memory")])
def test_other_errors_end_the_search(error: Exception) -> None:
    def trial(_: int) -> int:
        raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error), match=str(error)):
        largest_batch(trial, below=5000, capacity=100_000)


@given(
    fixed=st.integers(0, 4_000_000_000),
    per_image=st.integers(1_000_000, 400_000_000),
    floor=st.integers(0, 1_000_000_000),
    noise=st.lists(st.floats(0, 0.05), min_size=80, max_size=80),
    capacity=st.sampled_from([600_000_000, 16_000_000_000, 80_000_000_000]),
    below=st.integers(2, 80_000),
)
def test_two_small_trials_find_the_largest_batch(
    fixed: int, per_image: int, floor: int, noise: list[float], capacity: int, below: int
) -> None:
    """Memory that is affine in the batch from some batch on, as with an optimizer's step beside the backward pass.

    Only the small trials are measured wrongly, by workspaces up to 5 %, and below the slope that decides by less.
    """
    tried: list[int] = []

    def needed(size: int) -> int:
        return fixed + max(per_image * size, floor)

    def trial(size: int) -> int:
        tried.append(size)
        if needed(size) > capacity:
            raise torch.OutOfMemoryError
        return needed(size) + int(noise[len(tried)] * per_image * size)

    sizes = [2**n for n in range(17) if 2**n < below]
    expected = max((size for size in sizes if needed(size) <= capacity), default=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("food101_fast.train.memory.release", lambda: None)
        assert largest_batch(trial, below=below, capacity=capacity) == expected
    if expected is not None and expected > 32 and floor <= 8 * per_image:
        # The two small ones, the one that it is, and at most one that is just too large.
        assert len(tried) <= 4, tried
        assert tried[:2] == [8, 32]


def test_a_batch_is_found_where_extrapolation_is_far_off() -> None:
    """Larger than memory allows, and where the peak does not depend on the batch."""
    tried: list[int] = []

    def trial(size: int) -> int:
        tried.append(size)
        if size > 100:
            raise torch.OutOfMemoryError
        return 1000 + size // 30

    assert largest_batch(trial, below=1000, capacity=100_000) == 64
    assert tried == [8, 32, 512, 256, 128, 64]
    tried.clear()
    assert largest_batch(lambda size: trial(size) * 0 + 7, below=1000, capacity=100_000) == 64
    assert tried == [8, 32, 512, 256, 128, 64]


def test_the_batch_is_fitted_to_a_gpu() -> None:
    """With trials on the CPU that fail above some images."""
    cpu = context_of(TINY)
    with pytest.raises(UserError, match="--auto-batch tries how much fits into a GPU's memory, and there is none here"):
        fit_batch(cpu, samples=58, trial=trial_steps(cpu), capacity=0)

    def fitted(samples: int, most: int, accumulate: int = 1) -> int:
        def trial(size: int) -> int:
            if size > most:
                raise torch.OutOfMemoryError
            return trial_steps(cpu)(size)

        gpu = dataclasses.replace(
            cpu, device=torch.device("cuda", 0), recipe=dataclasses.replace(TINY, accumulate=accumulate)
        )
        return fit_batch(gpu, samples=samples, trial=trial, capacity=0)

    assert fitted(58, 20) == 16
    assert fitted(58, 20, accumulate=3) == 48
    assert fitted(9, 20) == 8
    with pytest.raises(UserError, match="not even one image of 32 pixels fits"):
        fitted(58, 0)


def context_of(recipe: Recipe, device: str = "cpu") -> TrainContext:
    """A context of one rank, for the classes and the size of the tiny shards."""
    return TrainContext(recipe=recipe, device=torch.device(device), world=World(), classes=3, stored_size=32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep", "-1"], "--keep -1 should be at least 0"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps 0 should be at least 1"),
        (["--checkpoint-minutes", "0"], "--checkpoint-minutes 0.0 should be above 0"),
        (["--log-steps", "0"], "--log-steps 0 should be at least 1"),
        (["--auto-batch"], "--auto-batch tries how much fits"),
        (
            ["--batch-size", "9", "--accumulate", "2"],
            "--batch-size 9 is the batch of all ranks together",
        ),
        (["--sync-batchnorm"], "--sync-batchnorm: torch supports it on CUDA only"),
    ],
)
def test_options_that_can_not_be_are_one_sentence(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], flags: list[str], message: str
) -> None:
    run = tmp_path / "run"
    arguments = ("--shards", str(tiny_path), "--run", str(run), "--device", "cpu", "--recipe", "demo")
    code, _, err = command("train", *arguments, *flags)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {message}")
    assert not run.exists()
