"""What stays the same over a whole run, and what a program may replace in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from food101_fast.compute.distributed import World
from food101_fast.loader import Batch
from food101_fast.models import Backbone, build_model, inputs_of
from food101_fast.progress import say, warn
from food101_fast.runs.recipe import Recipe
from food101_fast.shards import ShardSet
from food101_fast.train.distillation import Teacher, load_teacher
from food101_fast.train.loss import check_counts
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import Validation, validate
from food101_fast.transforms import InputSpec
from food101_fast.transforms.normalize import IMAGENET


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """A recipe, where it is computed, and the facts about the data that a step depends on."""

    recipe: Recipe
    """What to compute."""
    device: torch.device
    """This rank's device."""
    world: World
    """The ranks of the run."""
    classes: int
    """Number of classes."""
    stored_size: int
    """Height and width of the images in the shards, in pixels."""
    inputs: InputSpec = IMAGENET
    """The images that the backbone expects."""
    class_counts: tuple[int, ...] = ()
    """Training images of each class; recipes that weight classes or adjust logits need them."""
    teacher: Teacher | None = None
    """What the recipe's `teacher` computes, on this rank's device."""

    def say(self, line: str) -> None:
        """Print a line above the progress bar, on the main rank only."""
        if self.world.is_main:
            say(line)

    def warn(self, line: str) -> None:
        """Print a warning above the progress bar, on the main rank only."""
        if self.world.is_main:
            warn(line)


def train_context(
    shards: ShardSet, recipe: Recipe, device: torch.device, world: World, *, inputs: InputSpec | None = None
) -> TrainContext:
    """The context of a run.

    Args:
        shards: the data.
        recipe: what to compute.
        device: this rank's device.
        world: the ranks.
        inputs: the images that the backbone expects; by default those of the recipe's model and weights.

    Raises:
        UserError: the recipe can't be computed on these shards, or its model or teacher can't be used.
    """
    train_split = shards.manifest.splits.get("train")  # the loader refuses shards without it
    counts = () if train_split is None else train_split.class_counts
    check_counts(recipe, shards.classes, counts)
    inputs = inputs or inputs_of(recipe.model, recipe.weights)
    return TrainContext(
        recipe=recipe,
        device=device,
        world=world,
        classes=len(shards.classes),
        stored_size=shards.manifest.image_size,
        class_counts=counts,
        inputs=inputs,
        teacher=load_teacher(recipe, shards.classes, device, inputs),
    )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that a program may put into a run; the defaults are those of the command."""

    build_model: Callable[[Backbone, str, int], nn.Module] = build_model
    """Makes the network from a backbone, its weights and the number of classes; see `models.build_model`."""
    validate: Callable[..., Validation | None] = validate
    """Measures the network on the split `val`; see `validate.validate`."""
    before_step: Callable[[TrainStep, int, Batch], None] | None = None
    """Called before every training step with the step's object, its number (from 0, over the whole run) and the batch
    of this rank."""
