"""The training loop: epochs of steps that never wait for the device, validation, checkpoints, early stopping."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from food101_fast.loader import Batch, ShardLoader
from food101_fast.progress import bar
from food101_fast.runs.checkpoint import StateDict
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.results import EpochRow
from food101_fast.train.compile_control import CompileControl
from food101_fast.train.context import TrainContext
from food101_fast.train.logs import epoch_line, peak_memory
from food101_fast.train.meter import EpochMeter
from food101_fast.train.monitor import Monitor
from food101_fast.train.saving import Saver
from food101_fast.train.schedule import lr_factor, phase_at
from food101_fast.train.signals import StopRequest
from food101_fast.train.state import Progress
from food101_fast.train.step import TrainStep
from food101_fast.train.trackers import Trackers
from food101_fast.train.validator import Validator

# Several ranks must agree that they stop or save, which costs them a message; a single one looks in every step.
_STEPS_PER_AGREEMENT = 10
_STEPS_PER_COLLECTION = 100


class Trainer:
    """The loop over a run's epochs and steps. `start.started` makes one.

    Args:
        context: of the run.
        step: the model and one step of it.
        loader: of the training images.
        validator: measures the model after each epoch.
        control: compiles the step and counts the time for it.
        monitor: reads and shows results.
        saver: writes checkpoints and metrics.
        trackers: get the results of each epoch.
        progress: how far the run has come.
        meter_state: sums of the epoch that the checkpoint interrupts; None between two epochs.
        before_step: see `Hooks.before_step`.

    Attributes:
        recipe: of the run.
        progress: how far the run has come.
        saver: the metrics so far are in its `log`.
        trackers: of the run.
    """

    def __init__(
        self,
        context: TrainContext,
        *,
        step: TrainStep,
        loader: ShardLoader,
        validator: Validator,
        control: CompileControl,
        monitor: Monitor,
        saver: Saver,
        trackers: Trackers,
        progress: Progress,
        meter_state: StateDict | None = None,
        before_step: Callable[[TrainStep, int, Batch], None] | None = None,
    ) -> None:
        self.recipe = context.recipe
        self.progress = progress
        self.saver = saver
        self.trackers = trackers
        self._context = context
        self._step = step
        self._loader = loader
        self._validator = validator
        self._control = control
        self._monitor = monitor
        self._meter_state = meter_state
        self._before_step = before_step or (lambda *_: None)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self._loader)

    def run(self, stop: StopRequest) -> bool:
        """Train the epochs that are left.

        Returns:
            False if a signal stopped it, after the current step and a checkpoint.
        """
        recipe, progress = self._context.recipe, self.progress
        if progress.is_finished(recipe):
            self._context.say(already_finished(progress, recipe))
        while not progress.is_finished(recipe):
            meter = EpochMeter(self._loader, self._context.world, self._meter_state)
            self._meter_state = None
            if not self._train_epoch(meter, stop):
                return False
            if not self._finish_epoch(meter, stop):
                self.saver.save_within_epoch(progress, meter)
                return False
            if progress.is_finished(recipe) and progress.epoch < recipe.epochs:
                epochs = progress.epochs_since_best
                self._context.say(f"stopped early: no better validation accuracy for {epochs} epochs (--patience)")
        self._context.world.wait()
        return True

    def losses_at(self, rates: Iterable[float]) -> Iterator[float]:
        """Train a step with each of these learning rates of the head, and yield its mean loss, for the range test.

        Images and layers are those of the last epoch; where the images end they begin again. Nothing is validated or
        saved, and the run can't go on after it.
        """
        recipe, step, per_epoch = self._context.recipe, self._step, len(self._loader)
        step.start_phase(phase_at(recipe, recipe.epochs - 1, len(step.layers)))
        step.train_mode()
        batches = itertools.chain.from_iterable(self._loader for _ in itertools.count())
        for number, rate in enumerate(rates):
            step.prepare(number, rate / recipe.learning_rate)
            loss, _ = step(next(batches), number // per_epoch)
            yield float(loss)

    def _train_epoch(self, meter: EpochMeter, stop: StopRequest) -> bool:
        """Do the steps of an epoch that are left; False if a signal stopped it."""
        self._start_phase()
        progress, step, per_epoch = self.progress, self._step, len(self._loader)
        with _no_garbage_collection(), self._bar(meter) as shown:
            for batch in self._loader:
                step.prepare(progress.step, lr_factor(self._context.recipe, progress.step, per_epoch))
                self._before_step(step, progress.step, batch)
                with self._control.first_step_timed(meter):
                    loss, correct = step(batch, progress.epoch)
                meter.add(loss, correct, len(batch.labels))
                progress.step += 1
                shown.update(len(batch.labels) * self._context.world.size)
                self._control.step_done(progress, self._loader)
                if self._monitor.due(progress.step):
                    self._monitor.read(progress.step, meter, shown)
                stopping, saving = self._agree(stop)
                if stopping or saving:
                    self.saver.save_within_epoch(progress, meter)
                if stopping:
                    return False
            if not self._monitor.due(progress.step):
                self._monitor.read(progress.step, meter, shown)
        return True

    def _start_phase(self) -> None:
        """Train at the size, and the layers, of this epoch."""
        phase = phase_at(self._context.recipe, self.progress.epoch, len(self._step.layers))
        if phase != self._step.phase:
            self._step.start_phase(phase)
            self._control.phase_started()
        self._step.train_mode()

    def _bar(self, meter: EpochMeter) -> Any:
        """A progress bar over the images of an epoch, of all ranks together."""
        recipe, world = self._context.recipe, self._context.world
        return bar(
            total=len(self._loader) * recipe.batch_size,
            initial=meter.counters.images * world.size,
            desc=f"epoch {self.progress.epoch + 1}/{recipe.epochs}",
            unit=" images",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            **({} if world.is_main else {"disable": True}),  # an argument would overrule TQDM_DISABLE
        )

    def _agree(self, stop: StopRequest) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: the same on every rank."""
        step, world = self.progress.step, self._context.world
        if step % _STEPS_PER_COLLECTION == 0:
            gc.collect(1)
        planned = self.saver.due(step)
        if world.size > 1 and step % _STEPS_PER_AGREEMENT:
            return False, planned
        stopping, overdue = world.any(stop.signal is not None, self.saver.overdue())
        return stopping, planned or overdue

    def _finish_epoch(self, meter: EpochMeter, stop: StopRequest) -> bool:
        """Validate and save; False if a signal stopped the validation."""
        context, progress, step = self._context, self.progress, self._step
        timing = meter.timing()
        start = time.perf_counter()
        validation, compiling = self._validator(stop)
        meter.leave_out(compiling)
        if validation is None:
            return False
        timing = replace(
            timing,
            compile_seconds=timing.compile_seconds + compiling,
            validation_seconds=time.perf_counter() - start - compiling,
            peak_memory_bytes=peak_memory(context.device),
        )
        trained = meter.results()
        improved = progress.finish_epoch(validation.top1)
        row = EpochRow(
            epoch=progress.epoch,
            step=progress.step,
            image_size=step.phase.image_size,
            learning_rate=step.optimizer.param_groups[0]["lr"],
            train_loss=trained.loss,
            train_top1=trained.top1,
            skipped_steps=int(step.skipped),
            val_loss=validation.loss,
            val_top1=validation.top1,
            val_top5=validation.top5,
            timing=timing,
        )
        step.skipped.zero_()
        self._control.note(timing.compile_seconds)
        context.say(epoch_line(row, context.recipe.epochs, improved=improved))
        shown = {f"validation/{name}": value for name, value in vars(validation).items()}
        self.trackers.metrics(progress.step, shown | {"epoch": progress.epoch})
        self.saver.save_epoch(progress, row, improved=improved)
        return True


def already_finished(progress: Progress, recipe: Recipe) -> str:
    """What to tell a user who resumes a finished run."""
    if progress.epoch >= recipe.epochs:
        return (
            f"this run is finished: it trained {progress.epoch} of {recipe.epochs} epochs; to train longer give "
            f"--resume --epochs {2 * progress.epoch}"
        )
    return (
        f"this run is finished: it stopped early in epoch {progress.epoch}, after {progress.epochs_since_best} epochs "
        f"without a better validation accuracy; to train longer give --resume --patience "
        f"{progress.epochs_since_best + (recipe.patience or 1)}"
    )


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for garbage in the middle of a step; the loop does it between steps."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
