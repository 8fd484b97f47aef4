"""The training loop: epochs of steps that never wait for the device, validation, checkpoints, early stopping."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import torch
from tqdm import tqdm

from food101_fast.compute.device import Device, choose_device, set_up_device
from food101_fast.compute.distributed import World, joined_world
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions, ShardLoader
from food101_fast.models import build_model, check_sizes, load_weights
from food101_fast.runs.checkpoint import (
    epoch_name,
    load_checkpoint,
    load_training_weights,
    remove_epochs,
    save_checkpoint,
)
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.results import EpochRow
from food101_fast.runs.run import Run, check_resumable, held_run, new_run, read_run, write_run
from food101_fast.shards import ShardSet
from food101_fast.storage import write_atomically, writing
from food101_fast.train.compiling import AutoCompile, chosen_at_once, compile_times, graph_name, use_cache_folder
from food101_fast.train.logs import Board, MetricsLog, epoch_line, peak_memory, require_tensorboard
from food101_fast.train.memory import fit_batch, out_of_memory, out_of_memory_ends, trial_steps
from food101_fast.train.meter import EpochMeter
from food101_fast.train.options import RunOptions
from food101_fast.train.schedule import lr_factor, phase_at
from food101_fast.train.signals import StopRequest
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import FirstCall, eval_twin, validate
from food101_fast.transforms import eval_preset

STATE_VERSION = 1
# Several ranks must agree that they stop or save, which costs them a message; a single one looks in every step.
_STEPS_PER_AGREEMENT = 10
_STEPS_PER_COLLECTION = 100
_LARGEST_VALIDATION_BATCH = 512
_IDS_SHOWN = 8
_SECONDS_PER_LOGGED_BAR = 10.0  # where each refresh becomes a line of its own


@dataclass
class Progress:
    """How far a run has come; goes into every checkpoint."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the whole run."""
    best_top1: float = -1.0
    epochs_since_best: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What `train` did."""

    metrics: list[EpochRow]
    """A row for every finished epoch of the run, as they stand in `metrics.jsonl`."""
    steps: int
    """Finished steps of the run."""
    stopped_by: str | None
    """The signal that ended it before its time; it can be gone on with."""


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
) -> Trained:
    """Train a run to its end, until validation accuracy stops rising, or until SIGTERM or SIGINT.

    Under torchrun all ranks call this alike, and see the same folder; the main rank writes.

    Args:
        shards: the data; the splits `train` and `val` are used.
        folder: the run's folder; new, unless `resume`.
        recipe: what to compute.
        device: where.
        resume: go on after the last checkpoint of the run in `folder`.
        auto_batch: replace the recipe's batch size by the largest that fits into the device's memory.
        loading: how the loaders work.
        options: how the run is kept and shown.

    Raises:
        UserError: the folder, the recipe, the weights or the device can't be used (a new folder is not made then); a
            checkpoint can't be written; gradients stay not finite; or the device's memory is too small.
    """
    where, classes = choose_device(device), len(shards.classes)
    set_up_device(where, tf32=recipe.tf32, cudnn_benchmark=recipe.cudnn_benchmark)
    if recipe.compiles_on(where.type):
        use_cache_folder()
    with joined_world(where) as world, StopRequest() as stop:
        if auto_batch:
            samples = len(shards.split("train"))
            batch_size = fit_batch(recipe, where, classes, shards.manifest.image_size, samples, world)
            recipe = replace(recipe, batch_size=batch_size)
            torch.cuda.reset_peak_memory_stats(where)  # the run's peak is not that of the trials
        trainer = Trainer(shards, folder, recipe, where, world, loading or LoaderOptions(), options or RunOptions())
        with out_of_memory_ends(), contextlib.ExitStack() as held:
            trainer.begin(held, resume=resume)
            held.callback(trainer.board.close)
            ended = trainer.run(stop)
            stopped_by = None if ended else stop.signal
            return Trained(metrics=trainer.log.rows, steps=trainer.progress.step, stopped_by=stopped_by)
        del trainer  # with all that it has on the device
        raise out_of_memory(recipe, where, world, trial_steps(recipe, where, classes, shards.manifest.image_size))


class Trainer:
    """A run in the making. See `train` for the arguments.

    Attributes:
        step: the model and its step.
        progress: how far the run has come.
        log: the metrics of its finished epochs.
    """

    step: TrainStep
    log: MetricsLog

    def __init__(
        self,
        shards: ShardSet,
        folder: Path,
        recipe: Recipe,
        device: torch.device,
        world: World,
        loading: LoaderOptions,
        options: RunOptions,
    ) -> None:
        self.shards, self.folder, self.recipe = shards, folder, recipe
        self.device, self.world, self.options = device, world, options
        if options.tensorboard:
            require_tensorboard()
        self.progress = Progress()
        self.loader, self.val_loader = self._loaders(loading)
        self.eval_preset = eval_preset(recipe.image_size, shards.manifest.image_size).to(device)
        self.log_steps = options.log_steps or (25 if device.type == "cuda" else 1)
        self._meter_state: dict[str, Any] | None = None  # of an epoch that was broken off
        self._compiles = True  # whether the next step does
        self._auto_compile: AutoCompile | None = None  # until it has chosen
        self._obstacle_told = False
        self._saved_at = time.monotonic()

    def _loaders(self, loading: LoaderOptions) -> tuple[ShardLoader, ShardLoader]:
        recipe, world = self.recipe, self.world
        if recipe.batch_size % (world.size * recipe.accumulate):
            ranks = f"{world.size} ranks and " if world.size > 1 else ""
            raise UserError(
                f"--batch-size {recipe.batch_size} can't be cut into equal parts for {ranks}--accumulate "
                f"{recipe.accumulate}; choose a multiple of {world.size * recipe.accumulate}"
            )
        common = {"device": self.device, "rank": world.rank, "world_size": world.size, **loading.arguments()}
        part = recipe.batch_size // world.size
        train_loader = ShardLoader(
            self.shards, split="train", batch_size=part, seed=recipe.seed, window=recipe.window, **common
        )
        # The same on every number of ranks, so that logits are, too.
        validated = min(recipe.batch_size, _LARGEST_VALIDATION_BATCH)
        val_loader = ShardLoader(
            self.shards, split="val", batch_size=validated, shuffle=False, drop_last=False, **common
        )
        for loader in (train_loader, val_loader):
            self._say(f"{loader.split.name}: residence {loader.residence}, {loader.residence_reason}")
        return train_loader, val_loader

    def _say(self, line: str) -> None:
        if self.world.is_main:
            tqdm.write(line)

    def begin(self, held: contextlib.ExitStack, *, resume: bool) -> None:
        """Make the run's folder and model, or read them.

        Args:
            held: gives the folder up when it is closed.
            resume: whether there is a run to go on with.
        """
        recipe, classes = self.recipe, len(self.shards.classes)
        torch.manual_seed(recipe.seed)
        run: Run | None = None
        if resume:
            run = read_run(self.folder)
            check_resumable(self.folder, run, recipe, self.shards)
            if self.world.is_main:
                held.enter_context(held_run(self.folder))
            weights, state = load_checkpoint(self.folder, "last")
            if state.get("version") != STATE_VERSION:
                raise UserError(
                    f"the checkpoint of {self.folder} has version {state.get('version')}, and this program goes on "
                    f"with version {STATE_VERSION}; use the version of food101_fast that wrote it"
                )
            training = load_training_weights(self.folder, "last")
            model = build_model(recipe.model, "none", classes)
        else:
            # What the other ranks have does not matter: the main rank's weights are sent to them.
            model = build_model(recipe.model, recipe.weights if self.world.is_main else "none", classes)
            if self.world.is_main:
                run = new_run(self.folder, recipe, self.shards, self.device, self.world.size)
            check_sizes(recipe.model, model, {recipe.image_size, recipe.start_size or recipe.image_size})
        compiled = chosen_at_once(recipe, self.device)
        self.step = TrainStep(recipe, model, self.device, classes, self.world, compiled=bool(compiled))
        self._validation_model = self._for_validation()
        if resume:
            self._restore(weights, training, state)
        elif self.world.is_main:
            held.enter_context(held_run(self.folder))
        self.log = MetricsLog(self.folder, self.progress.epoch)
        logged = self.folder if self.options.tensorboard and self.world.is_main else None
        self.board = Board(logged, self.progress.step + 1)
        if self.world.is_main and run is not None:
            write_run(self.folder, replace(run, recipe=recipe))
        self._say(self._title())
        if compiled is None:
            self._auto_compile = AutoCompile(self.step.precision, self.device)
            if self._steps_left() <= self._auto_compile.steps_needed:
                self._auto_compile = None
                self._say(f"compile: off, {self._steps_left()} steps are too few")
        if recipe.image_size > self.shards.manifest.image_size:
            self._say(
                f"the shards hold {self.shards.manifest.image_size} px and the model sees {recipe.image_size} px, so "
                "images are enlarged; larger shards (prepare --size) would show it more"
            )

    def _for_validation(self) -> FirstCall:
        return FirstCall(self.step.compile(eval_twin(self.step.evaluated)))

    def _title(self) -> str:
        recipe, progress = self.recipe, self.progress
        weights = sum(parameter.numel() for parameter in self.step.model.parameters()) / 1e6
        ranks = f"{self.world.size} ranks, " if self.world.size > 1 else ""
        start = "random weights" if recipe.weights == "none" else f"weights {recipe.weights}"
        line = (
            f"{recipe.model} ({weights:.1f} million, {start}) on {self.device}, {ranks}"
            f"{self.step.precision.name}, {recipe.image_size} px, batch {recipe.batch_size}, "
            f"{len(self.loader)} steps in an epoch"
        )
        return line + (f"; going on after step {progress.step}, {progress.epoch} epochs done" if progress.step else "")

    def run(self, stop: StopRequest) -> bool:
        """Train the epochs that are left; False if a stop was asked for, after the step at hand and a checkpoint."""
        steps_per_epoch = len(self.loader)
        patience = self.recipe.patience or self.recipe.epochs
        while self.progress.epoch < self.recipe.epochs and self.progress.epochs_since_best < patience:
            meter = EpochMeter(self.loader, self.world, self._meter_state)
            self._meter_state = None
            self._enter_phase()
            with _no_garbage_collection(), self._bar(meter) as bar:
                for batch in self.loader:
                    self.step.prepare(self.progress.step, lr_factor(self.recipe, self.progress.step, steps_per_epoch))
                    with self._compilation_left_out(meter):
                        loss, correct = self.step(batch, self.progress.epoch)
                    meter.add(loss, correct, len(batch.labels))
                    self.progress.step += 1
                    bar.update(len(batch.labels) * self.world.size)
                    if self._auto_compile is not None:
                        self._choose(self._auto_compile)
                    if self.progress.step % self.log_steps == 0:
                        self._read_results(meter, bar)
                    stopping, saving = self._agree(stop)
                    if stopping or saving:
                        self._save(meter)
                    if stopping:
                        return False
                if self.progress.step % self.log_steps:
                    self._read_results(meter, bar)
            if not self._finish_epoch(meter, stop):
                self._save(meter)
                return False
        if self.progress.epoch < self.recipe.epochs:
            self._say(f"stopped early: no better validation accuracy for {patience} epochs (--patience)")
        self.world.wait()
        return True

    def _bar(self, meter: EpochMeter) -> Any:
        images = self.recipe.batch_size
        title = f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}"
        done = meter.counters.images * self.world.size
        return tqdm(
            total=len(self.loader) * images,
            initial=done,
            desc=title,
            unit="images",
            mininterval=0.2 if sys.stderr.isatty() else _SECONDS_PER_LOGGED_BAR,
            **({} if self.world.is_main else {"disable": True}),  # an argument would overrule TQDM_DISABLE
        )

    def _enter_phase(self) -> None:
        phase = phase_at(self.recipe, self.progress.epoch, len(self.step.layers))
        if phase != self.step.phase:
            self.step.start_phase(phase)
            self._compiles = True
        self.step.train_mode()

    def _steps_left(self) -> int:
        return self.recipe.epochs * len(self.loader) - self.progress.step

    def _choose(self, auto: AutoCompile) -> None:
        """Compile the rest of the run or not, when enough steps are measured; the main rank's choice is everybody's."""
        step_seconds = auto.step_done(self.loader.counters.consumer_wait_seconds)
        if step_seconds is None:
            return
        self._auto_compile = None
        recipe, groups = self.recipe, len(self.step.layers)
        phases = {phase_at(recipe, epoch, groups) for epoch in range(self.progress.epoch, recipe.epochs)}
        graphs = [graph_name(recipe, phase, self.device, self.world.size) for phase in phases]
        choice = auto.choose(self._steps_left(), step_seconds, graphs, compile_times(), graphed=self.step.graphed)
        self._say(choice.line)
        if self.world.any(choice.compiled and self.world.is_main)[0]:
            self.step.compile_from_now_on()
            self._compiles = True
            self._validation_model = self._for_validation()

    @contextlib.contextmanager
    def _compilation_left_out(self, meter: EpochMeter) -> Iterator[None]:
        """Time the first step of a phase apart, since that is when torch.compile works."""
        begun = time.perf_counter()
        yield
        if self.step.compiles_preset and self._compiles:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            meter.leave_out(time.perf_counter() - begun)
        self._compiles = False
        if self.step.obstacle is not None and not self._obstacle_told:
            self._obstacle_told = True
            self._compiles = self.step.compiles_preset
            self._say(f"cuda graph: off, {self.step.obstacle}")

    def _read_results(self, meter: EpochMeter, bar: Any) -> None:
        """Read what the steps left on the device, which waits for it; stop if gradients stay not finite."""
        streak = int(self.step.streak)
        if streak >= self.options.most_skipped:
            raise self._not_finite(streak)
        results, timing = meter.results(), meter.timing()
        bar.set_postfix_str(
            f"loss {results.loss:.3f}, {timing.images_per_second:,.0f}/s, without waiting "
            f"{timing.compute_images_per_second:,.0f}/s, waiting {timing.wait_share:.1%}",
            refresh=False,
        )
        self.board.add(
            self.progress.step,
            {
                "train/loss": results.loss,
                "train/top1": results.top1,
                "train/learning_rate": self.step.optimizer.param_groups[0]["lr"],
                "speed/images_per_second": timing.images_per_second,
                "speed/wait_share": timing.wait_share,
            },
        )

    def _not_finite(self, streak: int) -> UserError:
        first = self.progress.step - streak
        epoch, place = divmod(first, len(self.loader))
        rate = self.step.optimizer.param_groups[0]["initial_lr"] * lr_factor(self.recipe, first, len(self.loader))
        ids = self.loader.step_ids(epoch, place).tolist()
        path = RunFolder(self.folder).nonfinite
        if self.world.is_main:
            document = {"step": first, "epoch": epoch + 1, "learning_rate": rate, "ids": ids}
            with writing(path):
                write_atomically(path, orjson.dumps(document))
        return UserError(
            f"the gradients of {streak} steps in a row were not finite, from step {first} on (epoch {epoch + 1}, "
            f"learning rate {rate:.3g}, sample ids {', '.join(map(str, ids[:_IDS_SHOWN]))}, ...: all {len(ids)} are in "
            f"{path}); the last checkpoint is kept: look at those samples, or train with a lower --learning-rate, "
            "--clip-norm or --amp off"
        )

    def _agree(self, stop: StopRequest) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: the same on every rank."""
        step, options = self.progress.step, self.options
        if step % _STEPS_PER_COLLECTION == 0:
            gc.collect(1)
        planned = options.checkpoint_steps is not None and step % options.checkpoint_steps == 0
        if self.world.size > 1 and step % _STEPS_PER_AGREEMENT:
            return False, planned
        minutes = options.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        stopping, overdue = self.world.any(stop.signal is not None, overdue)
        return stopping, planned or overdue

    def _finish_epoch(self, meter: EpochMeter, stop: StopRequest) -> bool:
        """Validate, write down and save; False if that was broken off by a stop."""
        timing = meter.timing()
        begun = time.perf_counter()
        for model in (self.step.model, self.step.evaluated):
            self.world.share(model.buffers())
        earlier = self._validation_model.seconds
        validation = validate(
            self._validation_model,
            self.val_loader,
            self.eval_preset,
            self.step.precision,
            world=self.world,
            stopping=(lambda: stop.signal is not None) if self.world.size == 1 else None,
        )
        compiling = self._validation_model.seconds - earlier if self.step.compiled else 0.0
        meter.leave_out(compiling)
        if validation is None:
            return False
        timing = replace(
            timing,
            compile_seconds=timing.compile_seconds + compiling,
            validation_seconds=time.perf_counter() - begun - compiling,
            peak_memory_bytes=peak_memory(self.device),
        )
        progress = self.progress
        progress.epoch += 1
        improved = validation.top1 > progress.best_top1
        progress.epochs_since_best = 0 if improved else progress.epochs_since_best + 1
        progress.best_top1 = max(progress.best_top1, validation.top1)
        trained = meter.results()
        row = EpochRow(
            epoch=progress.epoch,
            step=progress.step,
            image_size=self.step.phase.image_size,
            learning_rate=self.step.optimizer.param_groups[0]["lr"],
            train_loss=trained.loss,
            train_top1=trained.top1,
            skipped_steps=int(self.step.skipped),
            val_loss=validation.loss,
            val_top1=validation.top1,
            val_top5=validation.top5,
            timing=timing,
        )
        self.step.skipped.zero_()
        if timing.compile_seconds and self.step.compiled and self.world.is_main:
            name = graph_name(self.recipe, self.step.phase, self.device, self.world.size)
            compile_times().note(name, timing.compile_seconds)
        self._say(epoch_line(row, self.recipe.epochs, improved=improved))
        self.board.add(progress.step, {f"validation/{name}": value for name, value in vars(validation).items()})
        self._save(improved=improved, row=row)
        return True

    def _save(self, meter: EpochMeter | None = None, *, improved: bool = False, row: EpochRow | None = None) -> None:
        """Save `last`, in the middle of the epoch that `meter` measures or after one; then also `best` and the log."""
        step, folder = self.step, self.folder
        position = self.loader.state_dict()
        if meter is not None and self.loader.epoch > self.progress.epoch:  # trained to its end, but not validated
            position |= {"epoch": self.progress.epoch, "step": len(self.loader)}
        state = {
            "version": STATE_VERSION,
            "recipe": asdict(self.recipe),
            "progress": vars(self.progress),
            "step": step.state_dict(),
            "loader": position,
            "meter": None if meter is None else meter.state_dict(),
        }
        self._saved_at = time.monotonic()
        if not self.world.is_main:
            if row is not None:
                self.log.rows.append(row)
            return
        weights = step.evaluated.state_dict()
        training = None if step.average is None else step.model.state_dict()
        if row is None:
            save_checkpoint(folder, "last", weights, state, training=training)
            return
        also = [epoch_name(self.progress.epoch)] if self.options.keep else []
        also += ["best"] if improved else []
        log = functools.partial(self.log.append, row)
        save_checkpoint(folder, "last", weights, state, training=training, also=also, log=log)
        remove_epochs(folder, self.options.keep)

    def _restore(self, weights: dict[str, Any], training: dict[str, Any] | None, state: dict[str, Any]) -> None:
        load_weights(self.step.evaluated, weights)
        if training is not None:
            load_weights(self.step.model, training)
        self.step.load_state_dict(state["step"])
        self.progress = Progress(**state["progress"])
        self.loader.load_state_dict(state["loader"])
        self._meter_state = state["meter"]


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
