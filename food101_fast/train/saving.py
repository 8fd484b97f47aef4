"""Saving a run: its checkpoints, and the metrics of its epochs, in an order that a kill can't hurt."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from food101_fast.loader import ShardLoader
from food101_fast.runs.checkpoint import StateDict, epoch_name, remove_epochs, save_checkpoint
from food101_fast.runs.results import EpochRow
from food101_fast.train.context import TrainContext
from food101_fast.train.logs import MetricsLog
from food101_fast.train.meter import EpochMeter
from food101_fast.train.options import RunOptions
from food101_fast.train.state import Progress, TrainState
from food101_fast.train.step import TrainStep


class Saver:
    """Writes a run's checkpoints and its metrics. Every rank must call the methods that save; the main rank writes.

    Args:
        context: of the run.
        folder: of the run.
        log: the metrics of the finished epochs.
        step: the model and its state.
        loader: of the training images.
        options: when to save, and how many epochs to keep.
    """

    def __init__(
        self,
        context: TrainContext,
        folder: Path,
        log: MetricsLog,
        *,
        step: TrainStep,
        loader: ShardLoader,
        options: RunOptions,
    ) -> None:
        self.folder = folder
        self.log = log
        self._context = context
        self._step = step
        self._loader = loader
        self._options = options
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether `--checkpoint-steps` asks for a checkpoint after so many steps: the same on every rank."""
        return self._options.checkpoint_steps is not None and step % self._options.checkpoint_steps == 0

    def overdue(self) -> bool:
        """Whether `--checkpoint-minutes` have passed since the last save, by this rank's clock."""
        minutes = self._options.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    def save_within_epoch(self, progress: Progress, meter: EpochMeter) -> None:
        """Save `last` between two steps, or before the validation of an epoch.

        Raises:
            UserError: it could not be written.
        """
        position = self._loader.state_dict()
        if self._loader.epoch > progress.epoch:  # all steps of the epoch are done
            position |= {"epoch": progress.epoch, "step": len(self._loader)}
        self._write(self._state(progress, position, meter.state_dict()))

    def save_epoch(self, progress: Progress, row: EpochRow, *, improved: bool) -> None:
        """Save `last` after an epoch, and with it the epoch's metrics, `best` and the epochs to keep.

        Args:
            progress: with the epoch counted.
            row: the epoch's metrics.
            improved: whether it is the best epoch so far.

        Raises:
            UserError: something could not be written.
        """
        self._write(self._state(progress, self._loader.state_dict(), None), row, improved=improved)

    def _state(self, progress: Progress, loader: StateDict, meter: StateDict | None) -> TrainState:
        step = self._step.state()
        return TrainState(recipe=self._context.recipe, progress=progress, step=step, loader=loader, meter=meter)

    def _write(self, state: TrainState, row: EpochRow | None = None, *, improved: bool = False) -> None:
        self._saved_at = time.monotonic()
        if not self._context.world.is_main:
            if row is not None:
                self.log.rows.append(row)
            return
        weights = self._step.evaluated.state_dict()
        training = None if self._step.average is None else self._step.model.state_dict()
        if row is None:
            save_checkpoint(self.folder, "last", weights, state.document(), training=training)
            return
        also = [epoch_name(state.progress.epoch)] if self._options.keep else []
        also += ["best"] if improved else []
        log = functools.partial(self.log.append, row)
        save_checkpoint(self.folder, "last", weights, state.document(), training=training, also=also, log=log)
        remove_epochs(self.folder, self._options.keep)
