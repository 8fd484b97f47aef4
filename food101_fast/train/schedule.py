"""Learning rate, image size and frozen layers as pure functions of the step or epoch, so that no state is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from food101_fast.errors import UserError
from food101_fast.runs.recipe import Recipe

# Networks halve an image five times, so sizes that are not multiples of 32 would waste pixels.
_SIZE_STEP = 32


@dataclass(frozen=True)
class Phase:
    """What decides the graph of a training step. Epochs of one phase share their compiled code."""

    image_size: int
    """Height and width of the training images, in pixels."""
    frozen: int
    """Number of layer groups, from the input on, that are not trained."""


def phase_at(recipe: Recipe, epoch: int, layer_groups: int) -> Phase:
    """The phase of `epoch`, for a model with `layer_groups` groups, including the head."""
    return Phase(image_size_at(recipe, epoch), frozen_at(recipe, epoch, layer_groups))


def image_size_at(recipe: Recipe, epoch: int) -> int:
    """Size of the training images in `epoch`: --start-size, then larger sizes, each for an equal number of epochs.

    Source: progressive resizing, fast.ai's entry to DAWNBench (2018).
    """
    if recipe.start_size is None or epoch >= recipe.epochs - 1:
        return recipe.image_size
    sizes = [*range(recipe.start_size, recipe.image_size, _SIZE_STEP), recipe.image_size]
    return int(sizes[epoch * len(sizes) // recipe.epochs])


def frozen_at(recipe: Recipe, epoch: int, layer_groups: int) -> int:
    """Number of frozen layer groups in `epoch`: those of `freeze`, or of gradual unfreezing.

    With `unfreeze_epochs` it is all but the head in the first epoch, and none after these epochs.

    Source: gradual unfreezing, Howard and Ruder, "Universal Language Model Fine-tuning", ACL 2018.

    Raises:
        UserError: the model has too few groups for `freeze`.
    """
    if epoch >= recipe.unfreeze_epochs:
        return never_trained(recipe, layer_groups)
    below_head = layer_groups - 1
    return below_head - below_head * epoch // recipe.unfreeze_epochs


def never_trained(recipe: Recipe, layer_groups: int) -> int:
    """Number of layer groups, from the input on, that `freeze` keeps frozen in the whole run.

    Args:
        recipe: with `freeze`.
        layer_groups: groups of the model, including the head.

    Raises:
        UserError: the model has no layer group left to train.
    """
    if recipe.freeze is None:
        return 0
    if recipe.freeze == "backbone":
        return layer_groups - 1
    if recipe.freeze >= layer_groups:
        raise UserError(
            f"--freeze {recipe.freeze}: {recipe.model} has {layer_groups} layer groups, the last of which is its head; "
            f"give at most {layer_groups - 1}"
        )
    return recipe.freeze


def lr_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Factor on the highest learning rate in `step`, counted from 0 over the whole run.

    Source of the cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "exponential":
        return recipe.lr_gamma ** (step // steps_per_epoch)
    share = (step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def stretched(before: Recipe, after: Recipe, step: int, steps_per_epoch: int) -> str | None:
    """What becomes of the schedule when a run goes on with another number of epochs; None if it just goes on.

    Learning rate and image size are functions of the step and the number of epochs, so they may jump. The exponential
    and the constant schedule do not depend on the number of epochs.

    Args:
        before: the recipe so far.
        after: the recipe from now on.
        step: finished steps.
        steps_per_epoch: steps in an epoch.
    """
    if step == 0 or before.epochs == after.epochs:
        return None
    jumps = []
    if lr_factor(before, step, steps_per_epoch) != lr_factor(after, step, steps_per_epoch):
        was = before.learning_rate * lr_factor(before, step - 1, steps_per_epoch)
        rate = after.learning_rate * lr_factor(after, step, steps_per_epoch)
        jumps.append(
            f"the learning rate {'rises' if rate > was else 'falls'} from {short_rate(was)} to {short_rate(rate)}"
        )
    size = image_size_at(before, (step - 1) // steps_per_epoch)
    next_size = image_size_at(after, step // steps_per_epoch)
    if next_size < size:
        jumps.append(f"images shrink from {size} to {next_size} px")
    if not jumps:
        return None
    how = "stretched" if after.epochs > before.epochs else "shortened"
    what = f"the {after.schedule} schedule" if "rate" in jumps[0] else "the schedule of image sizes"
    return f"--epochs {after.epochs} instead of {before.epochs}: {what} is {how}, so {' and '.join(jumps)}"


def short_rate(rate: float) -> str:
    """A learning rate with two digits: 1.7e-5."""
    if rate >= 0.01:
        return f"{rate:.2g}"
    digits, exponent = f"{rate:.1e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generators in `step` on `rank`, for dropout and stochastic depth.

    They are seeded in every step, so that a resumed run draws the same numbers as one that was not interrupted.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
