"""Training as one function: device, ranks, a batch that fits, the run, and an error that helps if memory runs out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash

from food101_fast.compute.device import Device, choose_device, set_up_device
from food101_fast.compute.distributed import World, joined_world
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions
from food101_fast.processes import refuse_import
from food101_fast.progress import say
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.results import EpochRow
from food101_fast.runs.run import is_begun, read_run
from food101_fast.shards import ShardSet
from food101_fast.train.compiling import cudnn_searches, use_cache_folder
from food101_fast.train.context import Hooks, TrainContext, train_context
from food101_fast.train.loop import Trainer
from food101_fast.train.memory import capacity_of, fit_batch, out_of_memory, out_of_memory_ends, trial_steps
from food101_fast.train.options import RunOptions
from food101_fast.train.probe.job import probed
from food101_fast.train.signals import StopRequest
from food101_fast.train.start import kept_batch_size, started


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of `train`."""

    metrics: list[EpochRow]
    """A row for every finished epoch of the run, as in `metrics.jsonl`."""
    steps: int
    """Finished steps of the run."""
    stopped_by: str | None
    """Name of the signal that stopped the run, which can then be resumed; None if it ended by itself."""
    nothing_left: bool = False
    """Whether the run had ended before, so that nothing was trained."""


def train(
    shards: ShardSet,
    folder: Path,
    recipe: Recipe,
    *,
    device: Device = "auto",
    resume: bool = False,
    auto_batch: bool = False,
    loading: LoaderOptions | None = None,
    options: RunOptions | None = None,
    hooks: Hooks | None = None,
) -> Trained:
    """Train a run to its end, until validation accuracy stops rising, or until SIGTERM or SIGINT.

    With the method `probe` a signal raises KeyboardInterrupt, and no run is written.

    Under torchrun all ranks call this with the same arguments and see the same folder; the main rank writes.

    Args:
        shards: the data; the splits `train` and `val` are used.
        folder: the run's folder; new or empty, unless `resume`.
        recipe: what to compute.
        device: where to compute it.
        resume: continue after the last checkpoint of the run in `folder`, if there is one; a run that has ended stays
            as it is. So a job script needs one call, however often it is started.
        auto_batch: replace the recipe's batch size by the largest that fits into the device's memory, or by that of the
            run to continue.
        loading: how the loaders work.
        options: how the run is saved and shown.
        hooks: functions to put into the run, such as a network of one's own.

    Raises:
        UserError: the folder, the recipe, the weights or the device can't be used (a new folder is not made then); a
            checkpoint can't be written; gradients stay not finite; or the device's memory is too small.
    """
    refuse_import("train()")
    where = choose_device(device)
    searches = cudnn_searches(recipe, None if auto_batch else shards)
    set_up_device(where, tf32=recipe.tf32, cudnn_benchmark=searches)
    loading, options, hooks = loading or LoaderOptions(), options or RunOptions(), hooks or Hooks()
    if recipe.method == "probe" and auto_batch:
        raise UserError("--auto-batch does nothing in a probe, whose batches change no result; leave it out")
    if recipe.compiles_on(where.type):
        use_cache_folder()
    with joined_world(where) as world, StopRequest() as stop:
        _check_same_everywhere(world, recipe, folder)
        resume = resume and _is_begun_for_all(world, folder)
        # A resumed run asks no library what its backbone expects, since that may need a network connection.
        context = train_context(shards, recipe, where, world, inputs=read_run(folder).inputs if resume else None)
        if recipe.method == "probe":
            rows = probed(context, shards, folder, resume=resume, loading=loading, hooks=hooks, stop=stop)
            return Trained(metrics=rows, steps=rows[-1].step, stopped_by=None, nothing_left=resume)
        if auto_batch and resume:
            context = replace(context, recipe=kept_batch_size(folder, recipe))
        elif auto_batch:
            context = with_largest_batch(context, len(shards.split("train")))
        with out_of_memory_ends():
            run = started(context, shards, folder, resume=resume, loading=loading, options=options, hooks=hooks)
            return _trained(run, stop)
        raise out_of_memory(context, trial_steps(context))


def _is_begun_for_all(world: World, folder: Path) -> bool:
    """Whether the main rank sees a run to resume. It writes only after that: others that looked could see a new one."""
    is_begun_here = world.is_main and is_begun(folder)
    if world.is_main and not is_begun_here:
        say(f"{folder} has no run to resume yet, so one begins")
    return world.any(is_begun_here)[0]


def _trained(run: AbstractContextManager[Trainer], stop: StopRequest) -> Trained:
    """Train; when this returns or raises, nothing of the run is left on the device."""
    with run as trainer:
        nothing_left = trainer.progress.is_finished(trainer.recipe)
        ended = trainer.run(stop)
        if ended:
            trainer.trackers.finish(trainer.saver.log.rows)
        return Trained(
            metrics=trainer.saver.log.rows,
            steps=trainer.progress.step,
            stopped_by=None if ended else stop.signal,
            nothing_left=nothing_left,
        )


def _check_same_everywhere(world: World, recipe: Recipe, folder: Path) -> None:
    """Refuse ranks with different recipes, as where some machines do not see the run that others resume.

    Raises:
        UserError: on every rank.
    """
    number = xxhash.xxh3_64_intdigest(repr(recipe).encode()) >> 1  # fits into an int64
    if world.least(number) != -world.least(-number):
        raise UserError(
            f"the ranks have different recipes; give all the same flags, and a --run that all machines see ({folder})"
        )


def with_largest_batch(context: TrainContext, samples: int) -> TrainContext:
    """The context with the largest batch that fits into the memory of every rank's device."""
    batch_size = fit_batch(context, samples=samples, trial=trial_steps(context), capacity=capacity_of(context.device))
    torch.cuda.reset_peak_memory_stats(context.device)  # the run's peak is not that of the trials
    return replace(context, recipe=replace(context.recipe, batch_size=batch_size))
