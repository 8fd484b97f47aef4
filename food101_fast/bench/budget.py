"""Fit the batch of a measurement into a time limit."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from food101_fast.models import build_model
from food101_fast.runs.recipe import Recipe
from food101_fast.train.distillation import Teacher
from food101_fast.train.step import TrainStep

ENOUGH = 6
"""Rounds to aim at: with fewer, `bench compare` can't find a difference."""

_SMALLEST_BATCH = 4
_TRIAL_BATCH = 8
# Training steps, or their equivalent, in the first pass through all stages (forward is a third of one), and in each
# round after it, where two stages are preceded by a step that isn't timed.
_STEPS_ONCE, _STEPS_A_ROUND = 4.4, 6.4
_SHARE = 0.7
"""Share of the remaining time for training steps. The rest is for stages that do not depend on the batch."""


def fitting_batch(batch: int, accumulate: int, *, seconds_per_image: float, seconds: float, rounds: int) -> int:
    """The batch with which the warm-up and `rounds` rounds fit into the time: `batch`, or the largest power of two.

    Args:
        batch: images in a step that were asked for.
        accumulate: number of micro-batches that a batch is split into.
        seconds_per_image: time of a training step for each image.
        seconds: remaining time.
        rounds: number of rounds to aim at.

    Returns:
        A multiple of `accumulate`; at least 4 images, unless `batch` is smaller.
    """
    images = int(max(seconds, 0.0) / needed_seconds(1, seconds_per_image, rounds))
    if images >= batch:
        return batch
    power = max(1 << max(images.bit_length() - 1, 0), _SMALLEST_BATCH)
    return min(max(power // accumulate, 1) * accumulate, batch)


def needed_seconds(batch: int, seconds_per_image: float, rounds: int) -> float:
    """How long the warm-up and `rounds` rounds take with a batch."""
    steps = _STEPS_ONCE + _STEPS_A_ROUND * (rounds + 1)  # the warm-up is a round, too
    return steps * batch * seconds_per_image / _SHARE


def seconds_per_image(recipe: Recipe, device: torch.device, classes: int, teacher: Teacher | None = None) -> float:
    """How long a training step takes for each image, from one step on 8 random images after a warm-up."""
    # Not compiled: every batch size would be compiled again.
    trial = replace(
        recipe, batch_size=_TRIAL_BATCH, accumulate=1, compile="off", cuda_graph="off", class_balance="none"
    )
    model = build_model(recipe.backbone, "none", classes)
    step = TrainStep(trial, model, device, classes, teacher=teacher)
    step.train_mode()
    step.prepare(0, 0.0)
    images = torch.randn(_TRIAL_BATCH, 3, recipe.image_size, recipe.image_size).to(memory_format=torch.channels_last)
    labels = torch.arange(_TRIAL_BATCH) % classes
    for _ in range(2):
        start = time.perf_counter()
        step.update(images, labels)
    return (time.perf_counter() - start) / _TRIAL_BATCH
