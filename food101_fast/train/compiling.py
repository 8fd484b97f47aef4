"""Whether torch.compile pays off in a run, and where compiled code is cached for the next run.

`--compile auto` on CUDA trains the first steps uncompiled and measures them. Then it compares the time that compiling
would save in the remaining steps with the time that compiling takes, which an earlier run on this machine has measured,
or else is estimated.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import torch

from food101_fast.compute.device import machine
from food101_fast.compute.precision import Precision
from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.runs.recipe import Recipe
from food101_fast.shards import ShardSet
from food101_fast.shards.cache import cache_settings
from food101_fast.storage import write_atomically
from food101_fast.train.schedule import Phase

# torch's environment variable for the folder of compiled code.
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_TIMES_NAME = "food101_fast_times.json"
# Seconds of the first compilation, and of the latest after it.
_Times = Annotated[list[float], msgspec.Meta(min_length=1, max_length=2)]
# Seconds to compile a phase's training graphs for CUDA, if no run has measured it: an estimate for a MobileNetV2, whose
# step has about 280 different kernels.
_COMPILE_SECONDS = 60.0
# Time of a compilation with cached code, as a share of the first one: tracing is repeated. An estimate: on two cores a
# ResNet-18 took 7.5 instead of 96.5 s (0.08), and Triton compiles faster than a C++ compiler.
_CACHED_SHARE = 0.2
# Speedup of a compiled step. Source: PyTorch's measurement of 163 models on an A100,
# https://pytorch.org/get-started/pytorch-2.x/: 51 % faster with mixed precision, 21 % in float32.
_SPEEDUP_MIXED, _SPEEDUP_FLOAT32 = 1.51, 1.21
# The same in a CUDA graph, where compiling saves no launches: a MobileNetV2 at 160 px with batches of 128 and of 512
# on an H200 (benchmarks/results/gpu-h200-2.json and -3.json).
_SPEEDUP_GRAPHED = 1.2
# Steps from which on cuDNN's search pays. For a MobileNetV2 at 160 px and batch 128, as a CUDA graph on an H200, it
# took 11 s and made epochs 1.06 times as fast: at 9.9 ms a step it pays from 20,000 steps on, and sooner where steps
# are slower (the notebook's job in benchmarks/results/gpu-h200-2.json and -4.json).
_SEARCH_STEPS = 10_000
# The first steps choose algorithms and fill caches, so the steps after them are measured.
_WARM_UP_STEPS, _MEASURED_STEPS = 10, 30


def use_cache_folder() -> None:
    """Make torch cache compiled code below `FOOD101_FAST_CACHE`, unless the user has chosen a folder.

    torch's default is a folder for temporary files, which is emptied when the machine or container restarts. torch sets
    it as environment variable when its compiler is imported. Its caches of graphs (`fx_graph_cache`,
    `enable_autograd_cache`) are on by default.
    """
    # Here, since it takes a second to import, and only runs that compile need it.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(CACHE_VARIABLE, default_cache_dir()) == default_cache_dir():
        folder = cache_settings(None, None).directory / "compiled"
        with contextlib.suppress(OSError):  # a home that can't be written to: use torch's default
            folder.mkdir(parents=True, exist_ok=True)
            os.environ[CACHE_VARIABLE] = str(folder.absolute())


def chosen_at_once(recipe: Recipe, device: torch.device) -> bool | None:
    """Whether to compile the model, if that is known before the first step; None if measured steps decide."""
    if recipe.compile == "auto":
        return None if device.type == "cuda" else False
    return recipe.compile == "on"


def cudnn_searches(recipe: Recipe, shards: ShardSet | None) -> bool:
    """Whether cuDNN searches for its fastest algorithms. It keeps a shape's first one, so this can't change later.

    Args:
        recipe: of the run.
        shards: of the run, or None where the batch size is not known yet.
    """
    if recipe.cudnn_benchmark is not None:
        return recipe.cudnn_benchmark
    if recipe.method == "probe":  # which sees each image once
        return False
    split = None if shards is None else shards.manifest.splits.get("train")
    return split is None or split.samples // recipe.batch_size * recipe.epochs >= _SEARCH_STEPS


def worth_compiling(*, steps_left: int, step_seconds: float, compile_seconds: float, speedup: float) -> bool:
    """Whether compiling saves more time in the remaining steps than it takes.

    Args:
        steps_left: remaining steps of the run.
        step_seconds: time of one uncompiled step, without waiting for data.
        compile_seconds: time to compile all graphs that the run still needs.
        speedup: how many times as fast a compiled step is.
    """
    return saved_seconds(steps_left, step_seconds, speedup) > compile_seconds


def saved_seconds(steps_left: int, step_seconds: float, speedup: float) -> float:
    """Seconds that compiling saves in `steps_left` steps; the arguments are those of `worth_compiling`."""
    return steps_left * step_seconds * (1 - 1 / speedup)


def graph_name(recipe: Recipe, phase: Phase, device: torch.device, ranks: int) -> str:
    """A name for a phase's compiled code: two runs with the same name need the same time to compile it."""
    chosen = {name: getattr(recipe, name) for name in ("mixup_alpha", "cutmix_alpha", "erasing")}
    preset = " ".join([recipe.preset, *(f"{name} {value}" for name, value in chosen.items() if value is not None)])
    teachers = f"{len(recipe.teacher)} teachers, " if recipe.teacher else ""
    return (
        f"torch {torch.__version__}, {machine(device).device}, {recipe.model}, {phase.image_size} px, "
        f"{phase.frozen} frozen, batch {recipe.chunk_size(ranks)}, {preset}, {teachers}"
        f"amp {recipe.amp}, {recipe.compile_mode}"
    )


class CompileTimes:
    """Remembers how long compilations took, in a file beside the compiled code, so that both are removed together.

    Args:
        folder: of the compiled code; None remembers nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _TIMES_NAME

    def estimate(self, name: str) -> tuple[float, bool]:
        """Seconds that compiling `name` will take, and whether an earlier run has measured them."""
        match self._read().get(name):
            case [first]:
                return first * _CACHED_SHARE, True
            case [_, again]:
                return again, True
        return _COMPILE_SECONDS, False

    def note(self, name: str, seconds: float) -> None:
        """Remember the seconds that compiling `name` took: the first time, and the latest time, with cached code."""
        if self._path is None:
            return
        times = self._read()
        times[name] = [times[name][0], seconds] if name in times else [seconds]
        with contextlib.suppress(OSError):  # only later runs would use it
            write_atomically(self._path, orjson.dumps(times, option=orjson.OPT_INDENT_2))

    def _read(self) -> dict[str, list[float]]:
        if self._path is None:
            return {}
        try:
            return parse(self._path.read_bytes(), dict[str, _Times], where=str(self._path), advice="remove it")
        except (OSError, UserError):  # missing or damaged: an estimate then
            return {}


def compile_times() -> CompileTimes:
    """The times beside the compiled code that this process uses."""
    folder = os.environ.get(CACHE_VARIABLE)
    return CompileTimes(None if folder is None else Path(folder))


@dataclass(frozen=True)
class Choice:
    """The choice of `--compile auto`."""

    compiled: bool
    line: str
    """The choice and its reason, for the terminal."""


class AutoCompile:
    """Measures the first steps of a run and then chooses, once.

    Args:
        precision: of the run; compiling gains more with mixed precision.
        device: of the run; measuring waits for it twice.

    Attributes:
        steps_needed: steps until the measurement is complete.
    """

    steps_needed = _WARM_UP_STEPS + _MEASURED_STEPS

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._speedup = _SPEEDUP_FLOAT32 if precision.dtype == torch.float32 else _SPEEDUP_MIXED
        self._device = device
        self._steps = 0
        self._start = self._waited = 0.0

    def step_done(self, waited: float) -> float | None:
        """Count a step.

        Args:
            waited: seconds that the run has waited for data so far.

        Returns:
            After the last measured step the seconds of one step, without waiting for data; None after all others.
        """
        self._steps += 1
        if self._steps == _WARM_UP_STEPS:
            self._start, self._waited = self._now(), waited
        if self._steps != self.steps_needed:
            return None
        return max(self._now() - self._start - (waited - self._waited), 0.0) / _MEASURED_STEPS

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def choose(
        self, steps_left: int, step_seconds: float, graphs: Iterable[str], times: CompileTimes, *, graphed: bool
    ) -> Choice:
        """Choose whether to compile the remaining steps.

        Args:
            steps_left: remaining steps of the run, if it does not stop early.
            step_seconds: from `step_done`.
            graphs: names, from `graph_name`, of the graphs to compile.
            times: of earlier compilations.
            graphed: whether a step is one CUDA graph, so that compiling saves no launches.
        """
        speedup = _SPEEDUP_GRAPHED if graphed else self._speedup
        estimates = [times.estimate(name) for name in graphs]
        compiling = sum(seconds for seconds, _ in estimates)
        compiled = worth_compiling(
            steps_left=steps_left, step_seconds=step_seconds, compile_seconds=compiling, speedup=speedup
        )
        measured = "as measured before" if all(known for _, known in estimates) else "an estimate"
        saved = saved_seconds(steps_left, step_seconds, speedup)
        return Choice(
            compiled,
            f"compile: {'on' if compiled else 'off'}, {steps_left:,} steps of {step_seconds * 1e3:.1f} ms are "
            f"{'enough' if compiled else 'too few'}: compiling takes about {compiling:.0f} s ({measured}) and saves "
            f"about {saved:.0f} s (steps {speedup} times as fast); --compile on or off decides otherwise",
        )
