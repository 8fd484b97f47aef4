"""Where a replay starts: the newest checkpoint before the step, and the recipe that trained on from there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from food101_fast.compute.device import machine
from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import checkpoint_names, peek_state
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.run import Run, RunMachine, versions
from food101_fast.train.state import Progress, read_state

# What of a recipe may change in a run, and changes what is computed.
_CHANGES = ("epochs", "accumulate")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A checkpoint of a run."""

    name: str
    progress: Progress
    recipe: Recipe
    """The recipe when it was saved."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where to start, and how to compute."""

    checkpoint: str | None
    """None: the initial weights."""
    step: int
    """Its finished steps."""
    recipe: Recipe
    """To compute with, in one process and without compiling."""
    differences: tuple[str, ...]
    """Why numbers may differ from those of the run."""


def choose_start(folder: Path, run: Run, step: int, device: torch.device) -> Start:
    """Choose where to start.

    Args:
        folder: of the run.
        run: in it.
        step: to replay.
        device: to compute on.

    Raises:
        UserError: the run ended before the step.
    """
    points = sorted(_points(folder), key=lambda point: point.progress.step)
    if points and points[-1].progress.is_finished(run.recipe) and step >= (end := points[-1].progress.step):
        raise UserError(
            f"--replay {step} is after the end of {folder}, which finished {end} steps; give a step from 0 to {end - 1}"
        )
    before = [point for point in points if point.progress.step <= step]
    after = [point for point in points if point.progress.step > step]
    first = before[-1] if before else None
    trained = after[0].recipe if after else run.recipe
    differences = _of_machines(run, trained, device)
    if first is not None:
        changed = [name for name in _CHANGES if getattr(first.recipe, name) != getattr(trained, name)]
        if changed and after:
            flags = " and ".join(f"--{name}" for name in changed)
            differences.append(
                f"{flags} changed when the run was resumed; the run does not say at which step, so numbers may differ"
            )
    return Start(
        checkpoint=None if first is None else first.name,
        step=0 if first is None else first.progress.step,
        recipe=_in_one_process(trained, run.machine.ranks),
        differences=tuple(differences),
    )


def _points(folder: Path) -> list[Point]:
    """The readable checkpoints. Without a damaged one a replay starts earlier, with the same result."""
    found = []
    for name in checkpoint_names(folder):
        with contextlib.suppress(UserError):
            state = read_state(peek_state(folder, name), folder)
            found.append(Point(name=name, progress=state.progress, recipe=state.recipe))
    return found


def _in_one_process(recipe: Recipe, ranks: int) -> Recipe:
    """The recipe for one process: what each rank saw together, in BatchNorm, becomes a chunk of the batch."""
    chunks = recipe.accumulate if recipe.sync_batchnorm else recipe.accumulate * ranks
    return replace(
        recipe, compile="off", compile_mode="default", cuda_graph="off", sync_batchnorm=False, accumulate=chunks
    )


def _of_machines(run: Run, recipe: Recipe, device: torch.device) -> list[str]:
    """What of the machine, the ranks and the versions changes the last bits, or more."""
    found = []
    if run.machine.ranks > 1:
        found.append(
            f"the run had {run.machine.ranks} ranks, and one process computes their batch in as many chunks: dropout "
            "and mixed images are drawn differently, so the numbers are approximate"
        )
    here = RunMachine(**vars(machine(device)), ranks=1)
    for name in ("device", "processor", "torch_threads"):
        then, now = getattr(run.machine, name), getattr(here, name)
        if then != now:
            found.append(f"{name.replace('_', ' ')} was {then} and is {now}: the last digits may differ")
    for name, version in versions().items():
        if name in ("torch", "torchvision", "food101_fast") and run.versions.get(name) != version:
            found.append(f"{name} was {run.versions.get(name)} and is {version}: numbers may differ")
    if device.type == "cuda":
        found.append("on a GPU the last digits may differ: a replay is not compiled, and some kernels add in any order")
    elif recipe.compile == "on":
        found.append("the run was compiled, and a replay is not: the last digits may differ")
    return found
