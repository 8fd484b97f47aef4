"""The range test: which learning rate suits a recipe and its data, from one short training with a rising rate.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3. The two rules that read a
rate from the curve are those of fastai's `lr_find`: the steepest descent, and a tenth of the rate with the lowest loss.
The suggestion is the lower of the two: above the steepest point the loss still falls, but a whole training at such a
rate often diverges.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from food101_fast.compute.device import Device, choose_device, set_up_device
from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions
from food101_fast.progress import bar
from food101_fast.runs.recipe import Recipe
from food101_fast.shards import ShardSet
from food101_fast.storage import write_atomically, writing
from food101_fast.train.context import Hooks, train_context
from food101_fast.train.job import with_largest_batch
from food101_fast.train.memory import out_of_memory, out_of_memory_ends, trial_steps
from food101_fast.train.options import RunOptions
from food101_fast.train.schedule import short_rate
from food101_fast.train.start import started

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
_DIVERGED = 4.0  # times the lowest loss so far, as in fastai
_MEMORY = 0.9  # of the running mean that notices divergence, per step
_SMOOTHING = 3.0  # standard deviation in steps of the curve that is read, a quarter of a decade
_LEAST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class LrRange:
    """What a range test found. Rates are those of the head."""

    learning_rate: float
    """The suggestion: the lower of the next two."""
    steepest: float
    """Where the smoothed loss falls fastest over the logarithm of the rate."""
    tenth_of_minimum: float
    """A tenth of the rate with the lowest smoothed loss."""
    rates: tuple[float, ...]
    """Of each step."""
    losses: tuple[float, ...]
    """Mean training loss of each step's batch; the last may be NaN or Inf."""
    smoothed: tuple[float, ...]
    """The same without noise, and without the last if it is not finite."""


def find_lr(
    shards: ShardSet,
    recipe: Recipe,
    *,
    device: Device = "auto",
    auto_batch: bool = False,
    loading: LoaderOptions | None = None,
    hooks: Hooks | None = None,
    steps: int = STEPS,
) -> LrRange:
    """Train a model of its own with a learning rate that rises from 1e-7 to 10, until the loss diverges.

    Everything else is as in the recipe: data, augmentation, loss, optimizer, --layer-decay; images and trained layers
    are those of its last epoch. Weights start as those of the recipe. Nothing is compiled, since steps are few.

    Args:
        shards: the data; small ones are seen several times.
        recipe: what to compute; its learning rate, schedule and warm-up do not matter.
        device: where to compute it.
        auto_batch: replace the recipe's batch size by the largest that fits into the device's memory.
        loading: how the loaders work.
        hooks: functions to put in, such as a network of one's own.
        steps: at most so many.

    Raises:
        UserError: the recipe can't be trained, or the loss was not finite from the start or never fell.
    """
    where = choose_device(device)
    # Its steps are too few for cuDNN's search, unless the recipe asks for it.
    set_up_device(where, tf32=recipe.tf32, cudnn_benchmark=recipe.cudnn_benchmark is True)
    if recipe.method == "probe":
        raise UserError("--find-lr: a probe has no learning rate; leave one of them out")
    eager = replace(recipe, compile="off", compile_mode="default", cuda_graph="off", ema_decay=None)
    context = train_context(shards, eager, where, World())
    if auto_batch:
        context = with_largest_batch(context, len(shards.split("train")))
    rates = np.geomspace(LOWEST, HIGHEST, steps).tolist()
    loading, hooks = loading or LoaderOptions(), hooks or Hooks()
    with out_of_memory_ends():
        with (
            tempfile.TemporaryDirectory() as folder,
            started(
                context,
                shards,
                Path(folder),
                resume=False,
                loading=loading,
                options=RunOptions(),
                hooks=hooks,
            ) as trainer,
        ):
            losses = _until_divergence(trainer.losses_at(rates), steps)
        return read_curve(rates[: len(losses)], losses)
    raise out_of_memory(context, trial_steps(context))


def _until_divergence(losses: Iterator[float], steps: int) -> list[float]:
    """The losses up to the one that is not finite, or with which the running mean has multiplied."""
    found: list[float] = []
    mean, lowest = 0.0, math.inf
    with bar(total=steps, desc="range test", unit=" steps") as shown:
        for loss in losses:
            found.append(loss)
            shown.update()
            mean = _MEMORY * mean + (1 - _MEMORY) * loss
            unbiased = mean / (1 - _MEMORY ** len(found))
            if not math.isfinite(loss) or (len(found) > _LEAST_STEPS and unbiased > _DIVERGED * lowest):
                break
            lowest = min(lowest, unbiased)
    return found


def read_curve(rates: Sequence[float], losses: Sequence[float]) -> LrRange:
    """The rates that a curve of losses suggests.

    Args:
        rates: of each step, in equal steps of their logarithm.
        losses: of each step.

    Raises:
        UserError: the loss was not finite from the start, or never fell.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < _LEAST_STEPS:
        raise UserError(
            f"the loss was NaN or Inf after {len(finite)} steps, at a learning rate of {rates[0]:.0e}; look at the "
            "images with `python -m food101_fast.transforms`, or use --amp off"
        )
    from scipy.ndimage import gaussian_filter1d  # here, since every training imports this module

    smoothed: NDArray[np.float64] = gaussian_filter1d(np.array(finite), _SMOOTHING, mode="nearest")
    lowest = int(smoothed.argmin())
    if lowest == 0:
        raise UserError(
            "the loss only rose with the learning rate, so none can be suggested; start from other --weights, or a "
            "larger --batch-size"
        )
    steepest = rates[int(np.gradient(smoothed[: lowest + 1]).argmin())]
    tenth = rates[lowest] / 10
    return LrRange(
        learning_rate=min(steepest, tenth),
        steepest=steepest,
        tenth_of_minimum=tenth,
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed.tolist()),
    )


def check_range_test(path: Path, *, resume: bool, ranks: int) -> None:
    """Refuse what a range test can't do before it starts.

    Raises:
        UserError: the picture can't be written there, there are several ranks, or a run is to be resumed.
    """
    if ranks > 1:
        raise UserError("--find-lr trains on one device; leave torchrun out")
    if resume:
        raise UserError("--find-lr and --resume cannot be combined, since it trains no run; leave one of them out")
    if path.suffix.lower() != ".png":
        raise UserError(f"--find-lr {path} should be the name of a PNG file, such as learning-rate.png")
    if not path.parent.is_dir():
        raise UserError(f"--find-lr {path}: there is no folder {path.parent}; make it, or choose another")


def show_range_test(found: LrRange, path: Path, *, as_json: bool) -> None:
    """Print what a range test found, and write its picture.

    Raises:
        UserError: the picture could not be written.
    """
    if not as_json:
        print(
            f"learning rate: {short_rate(found.learning_rate)} (the lower of {short_rate(found.steepest)}, where the "
            f"loss falls fastest, and {short_rate(found.tenth_of_minimum)}, a tenth of where it is lowest)"
        )
    marks = {
        f"suggested: {short_rate(found.learning_rate)}": found.learning_rate,
        f"steepest descent: {short_rate(found.steepest)}": found.steepest,
        f"a tenth of the lowest point's: {short_rate(found.tenth_of_minimum)}": found.tenth_of_minimum,
    }
    from food101_fast.plots import plot_lr_range, png  # here, since every training imports this module

    picture = png(plot_lr_range(found.rates, found.losses, found.smoothed, marks))
    with writing(path, "or give another --find-lr"):
        write_atomically(path, picture)
    if as_json:
        # NaN and Inf become null.
        print(orjson.dumps({**vars(found), "picture": str(path)}).decode())
    else:
        print(path)
