"""Replaying a step: a temporary run starts from a copy of a checkpoint and trains to the step; the run is only read.

So everything is computed by the code that trains, in the same order, and on a CPU the numbers are the same to the bit.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from food101_fast.compute.device import set_up_device
from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.loader import Batch, LoaderOptions
from food101_fast.progress import Output, bar, shown
from food101_fast.runs.checkpoint import copy_checkpoint
from food101_fast.runs.run import Run, read_run, write_run
from food101_fast.shards import ShardSet
from food101_fast.train.compiling import cudnn_searches
from food101_fast.train.context import Hooks, train_context
from food101_fast.train.loop import Trainer
from food101_fast.train.options import RunOptions
from food101_fast.train.replay.measure import measure
from food101_fast.train.replay.results import Measured, Replay
from food101_fast.train.replay.start import Start, choose_start
from food101_fast.train.signals import StopRequest
from food101_fast.train.start import started
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import Validation

_NEVER = 1 << 62
# Reads no results on the way, since nobody sees them, and is not stopped by steps that are skipped.
_OPTIONS = RunOptions(checkpoint_minutes=None, log_steps=_NEVER, most_skipped=_NEVER)


class _ReachedError(Exception):
    """The step has been measured, and nothing more is to be trained."""


class _Watch:
    """Measures the step when the run comes to it. Its call is a `Hooks.before_step`."""

    def __init__(self, number: int, shards: ShardSet, progress: Any) -> None:
        self.found: tuple[Measured, Batch, Tensor] | None = None
        self.step: TrainStep | None = None
        self._number = number
        self._shards = shards
        self._progress = progress
        self._epochs = 0
        self.trainer: Trainer | None = None

    def __call__(self, step: TrainStep, number: int, batch: Batch) -> None:
        assert self.trainer is not None
        self._progress.update()
        if number == self._number:
            self.step = step
            split = self._shards.split("train")
            measured, images = measure(step, batch, self.trainer.progress.epoch, split, self._shards.classes)
            self.found = measured, batch, images
            raise _ReachedError

    def validate(self, *_: object, **__: object) -> Validation:
        """Instead of a validation, which changes nothing in a step: always better than before, so that none is last."""
        self._epochs += 1
        return Validation(loss=0.0, top1=1.0 + self._epochs, top5=1.0)


def replay(
    folder: Path, number: int, *, device: torch.device, shards: str | None = None, hooks: Hooks | None = None
) -> tuple[Replay, Batch, Tensor, TrainStep]:
    """Compute a step of a run again.

    Args:
        folder: of the run; it is only read.
        number: of the step, from 0, over the whole run.
        device: to compute on.
        shards: folder or URL of the shards, if they moved.
        hooks: those that the run was trained with.

    Returns:
        What was found; the batch; the images that the model saw, normalized, float (N, 3, h, w); and the step.

    Raises:
        UserError: the folder has no run or its shards can't be opened, or the run has no such step.
    """
    run = read_run(folder)
    if run.recipe.method == "probe":
        raise UserError(f"{folder} is a probe, which has no training steps; give the run of another recipe to --replay")
    shard_set = run.open_shards(shards)
    start = choose_start(folder, run, number, device)
    recipe = start.recipe
    set_up_device(device, tf32=recipe.tf32, cudnn_benchmark=cudnn_searches(recipe, shard_set))
    context = train_context(shard_set, recipe, device, World(), inputs=run.inputs)
    with (
        bar(total=number - start.step + 1, desc=f"train to step {number}", unit=" steps") as progress,
        shown(Output(quiet=True)),
        _copied(folder, run, start) as copy,
    ):
        watch = _Watch(number, shard_set, progress)
        watched = replace(hooks or Hooks(), before_step=watch, validate=watch.validate)
        with started(
            context,
            shard_set,
            copy,
            resume=start.checkpoint is not None,
            loading=LoaderOptions(),
            options=_OPTIONS,
            hooks=watched,
        ) as trainer:
            _check_number(folder, number, recipe.epochs * trainer.steps_per_epoch)
            watch.trainer = trainer
            with contextlib.suppress(_ReachedError):
                trainer.run(StopRequest())
    return _result(folder, number, start, watch, trainer.steps_per_epoch)


def _result(
    folder: Path, number: int, start: Start, watch: _Watch, steps_per_epoch: int
) -> tuple[Replay, Batch, Tensor, TrainStep]:
    """What `replay` returns, after the watch has seen the step."""
    assert watch.found is not None
    assert watch.step is not None
    measured, batch, images = watch.found
    epoch, position = divmod(number, steps_per_epoch)
    found = Replay(
        run=str(folder),
        step=number,
        epoch=epoch + 1,
        step_of_epoch=position + 1,
        steps_per_epoch=steps_per_epoch,
        checkpoint=start.checkpoint,
        steps_before=number - start.step,
        learning_rate=watch.step.optimizer.param_groups[0]["lr"],
        image_size=images.shape[-1],
        differences=start.differences,
        measured=measured,
    )
    return found, batch, images, watch.step


def _check_number(folder: Path, number: int, steps: int) -> None:
    if number >= steps:
        raise UserError(f"--replay {number} is after the last step of {folder}; give a step from 0 to {steps - 1}")


@contextlib.contextmanager
def _copied(folder: Path, run: Run, start: Start) -> Iterator[Path]:
    """A context with a temporary run: new, or with the checkpoint as its last."""
    with tempfile.TemporaryDirectory(prefix="food101-fast-replay-") as temporary:
        copy = Path(temporary) / "run"
        if start.checkpoint is not None:
            write_run(copy, replace(run, recipe=start.recipe))
            copy_checkpoint(folder, start.checkpoint, copy, "last")
        yield copy
