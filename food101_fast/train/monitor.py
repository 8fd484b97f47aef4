"""Reads what the steps leave on the device: for the progress bar, for trackers, and to stop a run that diverged."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import orjson

from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.runs.folder import RunFolder
from food101_fast.storage import write_atomically, writing
from food101_fast.train.context import TrainContext
from food101_fast.train.meter import EpochMeter
from food101_fast.train.options import RunOptions
from food101_fast.train.schedule import lr_factor
from food101_fast.train.step import TrainStep
from food101_fast.train.trackers import Trackers

_IDS_SHOWN = 8
_CPU_STEPS, _CUDA_STEPS = 1, 25  # between two readings, by default


class Monitor:
    """Reads results every `--log-steps` steps, which waits for the device.

    Args:
        context: of the run.
        folder: of the run.
        trackers: get the results.
        step: whose results are read.
        loader: of the training images.
        options: how often to read, and how many skipped steps in a row end the run.
    """

    def __init__(
        self,
        context: TrainContext,
        folder: Path,
        trackers: Trackers,
        *,
        step: TrainStep,
        loader: ShardLoader,
        options: RunOptions,
    ) -> None:
        self._trackers = trackers
        self._context = context
        self._folder = folder
        self._step = step
        self._loader = loader
        self._most_skipped = options.most_skipped
        self._every = options.log_steps or (_CUDA_STEPS if context.device.type == "cuda" else _CPU_STEPS)

    def due(self, step: int) -> bool:
        """Whether results are read after so many steps: the same on every rank."""
        return step % self._every == 0

    def read(self, step: int, meter: EpochMeter, bar: Any) -> None:
        """Read and show the results so far; every rank must call it.

        Args:
            step: finished steps of the run.
            meter: sums of the epoch.
            bar: tqdm's bar.

        Raises:
            UserError: too many steps in a row had gradients that are not finite.
        """
        streak = int(self._step.streak)
        if streak >= self._most_skipped:
            raise self._not_finite(step, streak)
        results, timing = meter.results(), meter.timing()
        waiting = f", waiting {timing.wait_share:.0%}" if timing.wait_share >= 0.01 else ""
        bar.set_postfix_str(
            f"loss {results.loss:.3f}, {timing.images_per_second:,.0f}/s{waiting}",
            refresh=False,
        )
        self._trackers.metrics(
            step,
            {
                "train/loss": results.loss,
                "train/top1": results.top1,
                "train/learning_rate": self._step.optimizer.param_groups[0]["lr"],
                "speed/images_per_second": timing.images_per_second,
                "speed/wait_share": timing.wait_share,
            },
        )

    def _not_finite(self, step: int, streak: int) -> UserError:
        """Write the ids of the first skipped step to a file, and make the error."""
        first, recipe = step - streak, self._context.recipe
        epoch, position = divmod(first, len(self._loader))
        rate = self._step.optimizer.param_groups[0]["initial_lr"] * lr_factor(recipe, first, len(self._loader))
        ids = self._loader.step_ids(epoch, position).tolist()
        path = RunFolder(self._folder).nonfinite
        command = f"python -m food101_fast.train --run {shlex.quote(str(self._folder))} --replay {first}"
        if self._context.world.is_main:
            document = {"step": first, "epoch": epoch + 1, "learning_rate": rate, "ids": ids, "command": command}
            with writing(path):
                write_atomically(path, orjson.dumps(document))
        return UserError(
            f"the gradients of {streak} steps in a row were not finite, from step {first} on (epoch {epoch + 1}, "
            f"learning rate {rate:.3g}, sample ids {', '.join(map(str, ids[:_IDS_SHOWN]))}, ...: all {len(ids)} are in "
            f"{path}); the last checkpoint is kept: look at that step with `{command}`, or train with a lower "
            "--learning-rate, --clip-norm or --amp off"
        )
