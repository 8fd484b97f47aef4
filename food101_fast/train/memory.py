"""Batches that fit into the device's memory, found by trying."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.train.distributed import World
from food101_fast.train.model import build_model
from food101_fast.train.recipes import Recipe
from food101_fast.train.step import TrainStep

# The first step allocates what the optimiser holds, the second runs with it.
_TRIAL_STEPS = 2


def largest_batch(trial: Callable[[int], None], *, below: int) -> int | None:
    """The largest power of two below `below` for which `trial` does not run out of memory; None if there is none.

    Args:
        trial: does steps with so many images; raises `torch.OutOfMemoryError` if they do not fit.
        below: larger batches are not tried.
    """
    size = 1 << max((below - 1).bit_length() - 1, 0)
    while 1 <= size < below:
        try:
            trial(size)
        except torch.OutOfMemoryError:
            size //= 2
        else:
            return size
        finally:
            release()
    return None


def release() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trial_steps(recipe: Recipe, device: torch.device, classes: int, stored_size: int) -> Callable[[int], None]:
    """A trial for `largest_batch`: whole steps of the recipe on images of zeros, at the largest size, all layers.

    It has a model of its own. Compiled graphs need no more memory than eager ones, so nothing is compiled.
    """

    def trial(size: int) -> None:
        eager = replace(recipe, compile="off", accumulate=1, sync_batchnorm=False)
        step = TrainStep(eager, build_model(recipe.model, "none", classes), device, classes)
        step.train_mode()
        images = torch.zeros(size, stored_size, stored_size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
        numbers = torch.arange(size, device=device)
        for _ in range(_TRIAL_STEPS):
            step(Batch(images, numbers % classes, numbers), 0)

    return trial


def fit_batch(recipe: Recipe, device: torch.device, classes: int, stored_size: int, samples: int, world: World) -> int:
    """The largest batch, over all ranks, of a power of two on each rank's part that fits into every rank's memory.

    Args:
        recipe: what to compute; its batch size does not matter.
        device: a CUDA device.
        classes: of the data.
        stored_size: height and width of the images in the shards, in pixels.
        samples: training images; a batch has no more.
        world: the ranks.

    Raises:
        UserError: the device is not a CUDA device, or not even one image fits.
    """
    if device.type != "cuda":
        raise UserError(
            "--auto-batch tries how much fits into a GPU's memory, and there is none here; give --batch-size"
        )
    most = samples // (world.size * recipe.accumulate)
    fits = largest_batch(trial_steps(recipe, device, classes, stored_size), below=most + 1)
    fits = world.least(fits or 0)
    if fits * world.size * recipe.accumulate < 2:
        raise UserError(
            f"not even one image of {recipe.image_size} pixels fits into the device's memory with {recipe.model}; "
            "choose a smaller --model or --image-size"
        )
    return fits * world.size * recipe.accumulate


def out_of_memory(recipe: Recipe, device: torch.device, world: World, trial: Callable[[int], None]) -> UserError:
    """What to say when a step did not fit: the batch, the peak, and the largest that fits, measured by a trial."""
    release()
    part = recipe.batch_size // world.size // recipe.accumulate
    peak = f", at a peak of {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB" if device.type == "cuda" else ""
    fits = largest_batch(trial, below=part)
    if fits is None:
        advice = "not even one image fits; choose a smaller --model or --image-size"
    else:
        total = fits * world.size * recipe.accumulate
        parts = -(-recipe.batch_size // (fits * world.size))
        advice = (
            f"the largest power of two that fits is --batch-size {total}; or keep the batch and cut it into parts with "
            f"--accumulate {1 << (parts - 1).bit_length()}"
        )
    return UserError(
        f"out of device memory with --batch-size {recipe.batch_size} ({part} images of {recipe.image_size} pixels at a "
        f"time){peak}: {advice}"
    )
