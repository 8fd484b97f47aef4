"""Starting a run, or resuming one: everything is checked before anything is written, and then a `Trainer` is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from food101_fast.compute.device import Device, choose_device
from food101_fast.loader import LoaderOptions, ShardLoader
from food101_fast.loader.repeat import copies_of_classes
from food101_fast.models import check_sizes, check_weights, load_weights
from food101_fast.models.libraries import library_of
from food101_fast.runs.checkpoint import Weights, load_checkpoint, load_training_weights
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.resumable import check_resumable, check_same_recipe
from food101_fast.runs.run import (
    Run,
    check_new,
    is_begun,
    locked_run,
    new_run,
    read_run,
    write_run,
)
from food101_fast.shards import ShardSet
from food101_fast.train.batchnorm import refuse_single_images
from food101_fast.train.compile_control import CompileControl
from food101_fast.train.compiling import AutoCompile, chosen_at_once
from food101_fast.train.context import Hooks, TrainContext
from food101_fast.train.distillation import check_same_teacher, read_teacher
from food101_fast.train.logs import MetricsLog
from food101_fast.train.loop import Trainer
from food101_fast.train.monitor import Monitor
from food101_fast.train.options import RunOptions
from food101_fast.train.saving import Saver
from food101_fast.train.schedule import stretched
from food101_fast.train.state import Progress, TrainState, read_state
from food101_fast.train.step import TrainStep
from food101_fast.train.trackers import Trackers, require_extras
from food101_fast.train.validator import Validator
from food101_fast.transforms import eval_preset
from food101_fast.transforms.normalize import IMAGENET

_LARGEST_VALIDATION_BATCH = 512


def check_without_shards(
    folder: Path,
    recipe: Recipe,
    *,
    device: Device,
    resume: bool,
    auto_batch: bool,
    options: RunOptions,
    ranks: int,
    is_main: bool,
) -> None:
    """Refuse what can't be trained whatever the shards are; `started` checks it too, but shards may take long to open.

    Args:
        folder: of the run.
        recipe: what to compute.
        device: where to compute it.
        resume: whether a run in `folder` is continued.
        auto_batch: whether the recipe's batch size is replaced.
        options: how the run is saved and shown.
        ranks: number of ranks.
        is_main: whether this is the main rank, which looks at the folder.

    Raises:
        UserError: the folder, the model, its weights, a teacher, the batch size, the device or a tracker can't be used.
    """
    choose_device(device)
    library_of(recipe.model)
    recipe.batch_size_per_rank(ranks)
    for teacher in recipe.teacher:
        read_teacher(teacher)
    require_extras(options)
    if not is_main:
        return
    if not resume:
        check_new(folder)
        check_weights(recipe.weights)
    elif is_begun(folder):
        check_same_recipe(folder, read_run(folder), kept_batch_size(folder, recipe) if auto_batch else recipe)
    else:
        check_weights(recipe.weights)


def kept_batch_size(folder: Path, recipe: Recipe) -> Recipe:
    """A recipe with the batch size of the run in `folder`, which is to be resumed."""
    return replace(recipe, batch_size=read_run(folder).recipe.batch_size)


@contextlib.contextmanager
def started(
    context: TrainContext,
    shards: ShardSet,
    folder: Path,
    *,
    resume: bool,
    loading: LoaderOptions,
    options: RunOptions,
    hooks: Hooks,
) -> Iterator[Trainer]:
    """A context with a run that is ready to train; its folder stays locked in it.

    The arguments are those of `job.train`.

    Raises:
        UserError: a setting, the folder, a checkpoint or the weights can't be used. A new folder is not made then.
    """
    recipe, is_main = context.recipe, context.world.is_main
    teachers = () if context.teacher is None else context.teacher.runs
    require_extras(options)
    loader, val_loader = _loaders(context, shards, loading)
    torch.manual_seed(recipe.seed)
    with contextlib.ExitStack() as exits:
        stored = _stored(context, shards, folder, exits) if resume else None
        run, model = _run_and_model(context, shards, folder, stored, hooks)
        compiled = chosen_at_once(recipe, context.device)
        step = _step(context, model, compiled=bool(compiled))
        if stored is not None:
            _restore(stored, step, loader)
        elif is_main:
            exits.enter_context(locked_run(folder))
            check_new(folder)  # again: the process that had it locked may have trained into it
            RunFolder(folder).nonfinite.unlink(missing_ok=True)
        progress = Progress() if stored is None else stored.state.progress
        log = MetricsLog(folder, progress.epoch)
        if progress.is_finished(recipe):
            run = None  # no file changes
        if run is not None:
            run = replace(run, recipe=recipe, teachers=teachers)
            write_run(folder, run)
        trackers = Trackers(folder, run, options, step=progress.step, resumed=stored is not None)
        exits.enter_context(trackers)
        _say_start(context, stored, step, progress, len(loader))
        auto = _measuring(context, step, progress.steps_left(recipe, len(loader))) if compiled is None else None
        preset = eval_preset(recipe.image_size, context.stored_size, inputs=context.inputs).to(context.device)
        validator = Validator(context, step, val_loader, preset, hooks.validate)
        yield Trainer(
            context,
            step=step,
            loader=loader,
            validator=validator,
            control=CompileControl(context, step, validator, auto),
            monitor=Monitor(context, folder, trackers, step=step, loader=loader, options=options),
            saver=Saver(context, folder, log, step=step, loader=loader, options=options),
            trackers=trackers,
            progress=progress,
            meter_state=None if stored is None else stored.state.meter,
            before_step=hooks.before_step,
        )


def _loaders(context: TrainContext, shards: ShardSet, loading: LoaderOptions) -> tuple[ShardLoader, ShardLoader]:
    """Loaders of the training and of the validation images."""
    recipe, world = context.recipe, context.world
    common = {"device": context.device, "rank": world.rank, "world_size": world.size, **loading.arguments()}
    train_loader = ShardLoader(
        shards,
        split="train",
        batch_size=recipe.batch_size_per_rank(world.size),
        seed=recipe.seed,
        window=recipe.window,
        repeat_threshold=recipe.repeats_below(context.classes),
        **common,
    )
    # The same on every number of ranks, so that logits are, too.
    validated = min(recipe.batch_size, _LARGEST_VALIDATION_BATCH)
    val_loader = ShardLoader(shards, split="val", batch_size=validated, shuffle=False, drop_last=False, **common)
    for loader in (train_loader, val_loader):
        is_usual = loading.residence == "auto" and loader.residence == "stream" and loader.split.encoding == "raw"
        if not is_usual:
            context.say(f"{loader.split.name}: residence {loader.residence}, {loader.residence_reason}")
    if (threshold := recipe.repeats_below(context.classes)) is not None:
        context.say(_repeated(shards, threshold))
    return train_loader, val_loader


def _repeated(shards: ShardSet, threshold: float) -> str:
    """The line that says how often images of rare and of frequent classes come."""
    counts = np.array(shards.manifest.splits["train"].class_counts)
    copies = copies_of_classes(counts, threshold)[counts > 0]
    return (
        f"sampling: images of the rarest class come {copies.max():.2f} times in an epoch on average, those of the most "
        f"frequent class {copies.min():.2f} times"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stored:
    """A run to resume, as read from its folder."""

    run: Run
    weights: Weights
    """Weights to use: those of the average, if there is one."""
    training: Weights | None
    """Weights to train on from, if those to use are an average."""
    state: TrainState


def _stored(context: TrainContext, shards: ShardSet, folder: Path, exits: contextlib.ExitStack) -> _Stored:
    """Read a run to resume; the main rank locks its folder first.

    Raises:
        UserError: it can't be resumed with these shards and this recipe, another process trains it, or it is damaged.
    """
    if context.world.is_main:
        exits.enter_context(locked_run(folder))
    run = read_run(folder)
    check_resumable(folder, run, context.recipe, shards)
    check_same_teacher(folder, run.teachers, context.teacher)
    weights, document = load_checkpoint(folder, "last")
    state = read_state(document, folder)
    return _Stored(run=run, weights=weights, training=load_training_weights(folder, "last"), state=state)


def _run_and_model(
    context: TrainContext, shards: ShardSet, folder: Path, stored: _Stored | None, hooks: Hooks
) -> tuple[Run | None, nn.Module]:
    """The description of the run, on the main rank only, and its network, on the CPU.

    Raises:
        UserError: the folder is not empty, or the network or its weights can't be used.
    """
    recipe, is_main = context.recipe, context.world.is_main
    if stored is not None:
        model = hooks.build_model(stored.run.backbone, "none", context.classes)
        refuse_single_images(model, recipe, context.world.size)
        return stored.run if is_main else None, model
    # The weights of the other ranks do not matter: the main rank sends them its own.
    model = hooks.build_model(recipe.backbone, recipe.weights if is_main else "none", context.classes)
    refuse_single_images(model, recipe, context.world.size)
    inputs, ranks = context.inputs, context.world.size
    run = new_run(folder, recipe, shards, context.device, ranks, inputs) if is_main else None
    sizes = {recipe.image_size, recipe.start_size or recipe.image_size}
    check_sizes(recipe.backbone, model, sizes, native=inputs.size)
    return run, model


def _step(context: TrainContext, model: nn.Module, *, compiled: bool) -> TrainStep:
    """The step of a run."""
    return TrainStep(
        context.recipe,
        model,
        context.device,
        context.classes,
        context.world,
        class_counts=context.class_counts,
        teacher=context.teacher,
        compiled=compiled,
        inputs=context.inputs,
    )


def _restore(stored: _Stored, step: TrainStep, loader: ShardLoader) -> None:
    """Put a stored run into a new step and loader."""
    load_weights(step.evaluated, stored.weights)
    if stored.training is not None:
        load_weights(step.model, stored.training)
    step.restore(stored.state.step)
    loader.load_state_dict(stored.state.loader)


def _title(context: TrainContext, step: TrainStep, progress: Progress, steps_per_epoch: int) -> str:
    """Lines that say what is trained, from which teacher, where, and from which step on."""
    recipe = context.recipe
    weights = sum(parameter.numel() for parameter in step.model.parameters()) / 1e6
    ranks = f"{context.world.size} ranks, " if context.world.size > 1 else ""
    start = "random weights" if recipe.weights == "none" else f"weights {recipe.weights}"
    teachers = () if context.teacher is None else context.teacher.lines
    line = (
        f"{recipe.model} ({weights:.1f} M parameters, {start}) on {context.device}, {ranks}{step.precision.name}\n"
        f"{recipe.image_size} px, batch {recipe.batch_size}, {steps_per_epoch} steps per epoch"
    )
    spec = context.inputs
    if (spec.mean, spec.std) != (IMAGENET.mean, IMAGENET.std):
        numbers = (" ".join(f"{value:.4g}" for value in values) for values in (spec.mean, spec.std))
        line += ", normalized with mean {} and std {}".format(*numbers)
    line = "\n".join([*teachers, line])
    if not progress.step or progress.is_finished(recipe):
        return line
    return f"{line}; resumed after step {progress.step}, in epoch {progress.epoch + 1}"


def _say_start(
    context: TrainContext, stored: _Stored | None, step: TrainStep, progress: Progress, steps_per_epoch: int
) -> None:
    """Say what is trained from which step on, what changed since then, and whether images are enlarged."""
    context.say(_title(context, step, progress, steps_per_epoch))
    if stored is not None and not progress.is_finished(context.recipe):
        _say_changes(context, stored.state.recipe, progress.step, steps_per_epoch)
    if context.recipe.image_size > context.stored_size:
        context.warn(enlarged(context))


def _say_changes(context: TrainContext, before: Recipe, step: int, steps_per_epoch: int) -> None:
    """Say which fields changed since the last checkpoint, and what becomes of the schedule."""
    changes = before.differences(context.recipe)
    if changes:
        listed = ", ".join(f"--{name.replace('_', '-')} {now} instead of {was}" for name, was, now in changes)
        context.say(f"resumed with {listed}")
    if (line := stretched(before, context.recipe, step, steps_per_epoch)) is not None:
        context.warn(line)


def enlarged(context: TrainContext) -> str:
    """The line that says that images are enlarged for the model."""
    return (
        f"the shards have {context.stored_size} px and the model sees {context.recipe.image_size} px, so images are "
        "enlarged; larger shards (prepare --size) would show it more"
    )


def _measuring(context: TrainContext, step: TrainStep, steps_left: int) -> AutoCompile | None:
    """Measures the first steps for `--compile auto`; None if too few steps are left."""
    auto = AutoCompile(step.precision, context.device)
    if steps_left > auto.steps_needed:
        return auto
    context.say(f"compile: off, {steps_left} steps are too few")
    return None
