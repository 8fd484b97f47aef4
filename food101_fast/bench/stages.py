"""Measure the stages of a training step and the hardware limits in turns, in images per second.

How much faster a step is without loading, transforms or model shows how much there is to gain, even if they overlap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from food101_fast.bench.budget import ENOUGH, fitting_batch, needed_seconds, seconds_per_image
from food101_fast.bench.ceilings import ceilings
from food101_fast.bench.doctor import diagnose
from food101_fast.bench.measure import Measurement, measure_within
from food101_fast.bench.progress import Progress
from food101_fast.bench.provenance import Watch
from food101_fast.bench.reading import cold_read
from food101_fast.bench.results import BenchResult, Durations, Findings, Loading, MeasuredSettings
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.summary import Rates, summarize
from food101_fast.bench.works import (
    FIXED,
    LOADER,
    NO_MODEL,
    NO_TRANSFORMS,
    PARTS,
    WHOLE,
    Stage,
    computing_stages,
    loading_stages,
)
from food101_fast.compute.device import choose_device, machine, set_up_device
from food101_fast.loader import ShardLoader
from food101_fast.loader.residence import free_host_memory
from food101_fast.models import build_model
from food101_fast.train.compiling import use_cache_folder
from food101_fast.train.distillation import Teacher, load_teacher
from food101_fast.train.step import TrainStep

GROUPS: dict[str, tuple[str, ...]] = {
    "loader": ("read", "gather", "decode", "checksum", LOADER, "host to device"),
    "transforms": ("transforms",),
    "train": ("forward", *PARTS, LOADER, FIXED, NO_TRANSFORMS, NO_MODEL, WHOLE),
}
"""Stages of each command that measures only some of them."""
_LOADING = {LOADER, NO_MODEL, WHOLE}

_COLD_SHARE = 0.07
"""Share of the budget for reading from the disk."""
_FILL_SHARE = 0.25
"""Share of the budget for the epoch after which the loader has its images in memory."""


class Subject:
    """The loader and the training step that are measured, ready to run.

    Args:
        settings: what is measured.
        deadline: reading of `time.perf_counter` before which the measurement should end. On a CPU the batch is reduced
            if it would take longer; None never reduces it.

    Attributes:
        device: the device that the step runs on.
        recipe: recipe of the step, with the batch size that is measured.
        reduced: a sentence that says why the batch is smaller than asked for; None if it is not.
        loader: loader of the split train.
        step: the training step, with a learning rate of 0, so that weights do not change.
        watch: watches the machine from now on.
        cold: rate of reading shards that are not in memory, see `cold_read`.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """

    def __init__(self, settings: BenchSettings, deadline: float | None = None) -> None:
        self.device = choose_device(settings.device)
        self.recipe = settings.chosen()
        set_up_device(self.device, tf32=self.recipe.tf32, cudnn_benchmark=self.recipe.cudnn_benchmark is not False)
        shards = settings.opened()
        classes = len(shards.classes)
        self.watch = Watch(self.device)
        self.cold = cold_read(shards, _COLD_SHARE * settings.budget)  # before anything maps the files
        self.reduced: str | None = None
        inputs = settings.inputs(self.recipe)
        teacher = load_teacher(self.recipe, shards.classes, self.device, inputs)
        if deadline is not None and self.device.type == "cpu":
            self._reduce_batch(settings, deadline, classes, teacher)
        recipe = self.recipe
        self.loader = ShardLoader(
            shards,
            split="train",
            batch_size=recipe.batch_size,
            device=self.device,
            window=recipe.window,
            **settings.loading.arguments(),
        )
        if recipe.compiles_on(self.device.type):
            use_cache_folder()
        model, counts = build_model(recipe.backbone, "none", classes), shards.manifest.splits["train"].class_counts
        self.step = TrainStep(recipe, model, self.device, classes, class_counts=counts, teacher=teacher, inputs=inputs)
        self.step.train_mode()
        self.step.prepare(0, 0.0)

    def _reduce_batch(self, settings: BenchSettings, deadline: float, classes: int, teacher: Teacher | None) -> None:
        asked, rounds = self.recipe.batch_size, min(settings.repetitions, ENOUGH)
        per_image = seconds_per_image(self.recipe, self.device, classes, teacher)
        left = deadline - time.perf_counter()
        batch = fitting_batch(asked, self.recipe.accumulate, seconds_per_image=per_image, seconds=left, rounds=rounds)
        if batch == asked:
            return
        self.recipe = replace(self.recipe, batch_size=batch)
        needed = settings.budget - left + needed_seconds(asked, per_image, rounds)
        self.reduced = (
            f"measured with batch {batch} instead of {asked}: a step of {asked} images takes about "
            f"{asked * per_image:,.1f} s here, and images/s hardly depend on the batch on a CPU; "
            f"--budget {10 * math.ceil(needed / 10)} measures batch {asked}"
        )


def run_bench(
    settings: BenchSettings,
    stages: tuple[str, ...] | None = None,
    *,
    keep_batch: bool = False,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure stages and hardware limits.

    Args:
        settings: what is measured.
        stages: names of those to measure; those that do not apply are skipped. All by default.
        keep_batch: never reduce the batch, even if only a round or two then fit into the budget.
        progress: shows the progress.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """
    begun = time.perf_counter()
    deadline = begun + settings.budget
    has_steps = stages is None or WHOLE in stages
    subject = Subject(settings, deadline if has_steps and not keep_batch else None)
    device = subject.device
    chosen = _chosen_stages(subject, settings, stages)
    limits = ceilings(device, subject.step.precision.dtype)
    filled = _fill(subject.loader, begun + _FILL_SHARE * settings.budget) if chosen.keys() & _LOADING else None

    def first_answer(rates: Mapping[str, list[float]]) -> str | None:
        if stages is not None:
            return None
        return diagnose(_findings(subject, settings, chosen, limits, rates), machine(device), brief=True).sentence

    if progress is not None:
        progress.say(_introduction(subject))
        progress.answer_with(first_answer)
    prepared = time.perf_counter()
    measured = measure_within(
        {**{name: stage.work for name, stage in chosen.items()}, **limits},
        seconds=settings.seconds,
        repetitions=settings.repetitions,
        device=device,
        deadline=deadline,
        primes={name: stage.prime for name, stage in chosen.items() if stage.prime is not None},
        observer=progress,
    )
    return BenchResult(
        provenance=subject.watch.notes(),
        findings=_findings(subject, settings, chosen, limits, measured.rates),
        timing=Durations(
            preparing=prepared - begun,
            warm_up=measured.warm_up_seconds,
            all=time.perf_counter() - begun,
            repetition=measured.seconds,
        ),
        remarks=[*filter(None, (subject.reduced, filled, _shortened(measured, settings)))],
    )


def _fill(loader: ShardLoader, until: float) -> str | None:
    """Read an epoch where the loader keeps images in memory, so that all repetitions are as in the epochs after it.

    Args:
        loader: that is measured.
        until: reading of `time.perf_counter` at which it is given up.

    Returns:
        A sentence about it; None if the loader keeps no images.
    """
    if loader.residence == "stream":
        return None
    for _ in loader:
        if time.perf_counter() > until:
            return "not all images were in memory when the measurement began; a larger --budget reads them all before"
    return "images were in memory, as after a first epoch; --residence stream measures the first one"


def _chosen_stages(subject: Subject, settings: BenchSettings, names: tuple[str, ...] | None) -> dict[str, Stage]:
    """The stages with these names, or all of them, in the order in which they are measured."""
    loader = subject.loader
    every = {**loading_stages(loader), **computing_stages(loader, subject.step, settings.loading.prefetch)}
    return {name: stage for name, stage in every.items() if names is None or name in names}


def _findings(
    subject: Subject, settings: BenchSettings, stages: Mapping[str, Stage], limits: Iterable[str], rates: Rates
) -> Findings:
    measured = MeasuredSettings(
        recipe=subject.recipe, budget=settings.budget, seconds=settings.seconds, repetitions=settings.repetitions
    )
    return summarize(
        rates,
        stages,
        limits,
        settings=measured,
        precision=_precision(subject.step),
        loading=_loading(subject.loader, settings),
        cold_read=subject.cold,
    )


def _introduction(subject: Subject) -> str:
    """What is about to be measured, in words."""
    recipe = subject.recipe
    return (
        f"measuring {recipe.model} at {recipe.image_size} px, batch {recipe.batch_size}, {_precision(subject.step)}, "
        f"on {machine(subject.device).device}"
    )


def _precision(step: TrainStep) -> str:
    """The type in which the step multiplies matrices, such as float32."""
    return str(step.precision.dtype).removeprefix("torch.")


def _shortened(measured: Measurement, settings: BenchSettings) -> str | None:
    """A sentence about what was left out for lack of time; None if nothing was."""
    rounds = len(next(iter(measured.rates.values())))
    more = f"--budget {2 * settings.budget:g} measures longer"
    if measured.warm_up_only:
        return f"only the warm-up fit into --budget {settings.budget:g}, so these are rough figures; {more}"
    if rounds < settings.repetitions:
        return f"{rounds} of {settings.repetitions} repetitions fit into --budget {settings.budget:g}; {more}"
    return None


def _loading(loader: ShardLoader, settings: BenchSettings) -> Loading:
    manifest = loader.shards.manifest
    return Loading(
        encoding=manifest.encoding,
        stored_size=manifest.image_size,
        place="local" if loader.split.is_local else "remote",
        bytes=int(loader.split.shard_bytes.sum()),
        decoded_bytes=len(loader.split) * loader.split.row_bytes,
        free_memory=free_host_memory(),
        threads=loader.threads,
        cores=machine(loader.device).cores,
        verify=settings.loading.verify,
        residence=loader.residence,
        residence_reason=loader.residence_reason,
        window=loader.window,
        counters=replace(loader.counters),
    )
