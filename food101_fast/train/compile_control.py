"""Compiling in the course of a run: the choice of `--compile auto`, and the time that compiling takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from food101_fast.loader import ShardLoader
from food101_fast.train.compiling import AutoCompile, compile_times, graph_name
from food101_fast.train.context import TrainContext
from food101_fast.train.meter import EpochMeter
from food101_fast.train.schedule import phase_at
from food101_fast.train.state import Progress
from food101_fast.train.step import TrainStep
from food101_fast.train.validator import Validator


class CompileControl:
    """Compiles a run's step and validation once that is decided, and counts the time for it.

    Args:
        context: of the run.
        step: to compile.
        validator: whose model is compiled with it.
        auto: measures the first steps, if they decide; None if the recipe has decided.
    """

    def __init__(
        self, context: TrainContext, step: TrainStep, validator: Validator, auto: AutoCompile | None = None
    ) -> None:
        self._context = context
        self._step = step
        self._validator = validator
        self._auto = auto  # until it has chosen
        self._compiles = True  # whether the next step does

    def phase_started(self) -> None:
        """The next step has other shapes or trains other layers, so it compiles."""
        self._compiles = True

    @contextlib.contextmanager
    def first_step_timed(self, meter: EpochMeter) -> Iterator[None]:
        """A context for one step. If the step compiles, its time counts as compilation.

        Args:
            meter: of the epoch.
        """
        start, graphed = time.perf_counter(), self._step.graphed
        yield
        if self._step.compiles_preset and self._compiles:
            if self._context.device.type == "cuda":
                torch.cuda.synchronize(self._context.device)
            meter.leave_out(time.perf_counter() - start)
        self._compiles = False
        if graphed and not self._step.graphed:
            self._compiles = self._step.compiles_preset
            self._context.say(f"cuda graph: off, {self._step.obstacle}")

    def step_done(self, progress: Progress, loader: ShardLoader) -> None:
        """Choose once whether to compile, after enough measured steps. All ranks follow the main rank's choice.

        Args:
            progress: with the step counted.
            loader: of the training images.
        """
        if self._auto is None:
            return
        step_seconds = self._auto.step_done(loader.counters.consumer_wait_seconds)
        if step_seconds is None:
            return
        recipe, world, step = self._context.recipe, self._context.world, self._step
        phases = {phase_at(recipe, epoch, len(step.layers)) for epoch in range(progress.epoch, recipe.epochs)}
        graphs = [graph_name(recipe, phase, self._context.device, world.size) for phase in phases]
        left = progress.steps_left(recipe, len(loader))
        choice = self._auto.choose(left, step_seconds, graphs, compile_times(), graphed=step.graphed)
        self._auto = None
        if step.can_compile:
            self._context.say(choice.line)
        if world.any(choice.compiled and world.is_main)[0]:
            step.compile_from_now_on()
            self._compiles = True
            self._validator.build()

    def note(self, seconds: float) -> None:
        """Remember for later runs how long this phase's compilation took.

        Args:
            seconds: of the epoch that has ended; 0 if nothing was compiled.
        """
        context = self._context
        if seconds and self._step.compiled and context.world.is_main:
            name = graph_name(context.recipe, self._step.phase, context.device, context.world.size)
            compile_times().note(name, seconds)
