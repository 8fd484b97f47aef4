"""Measure the stages of a training step and the machine's own ceilings in turns, in images per second.

How much faster a step is without one of its parts is how much there is to gain, whatever runs beside what.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import truediv
from typing import Any

from food101_fast.bench.budget import ENOUGH, fitting_batch, needed_seconds, seconds_per_image
from food101_fast.bench.ceilings import ceilings, shares
from food101_fast.bench.doctor import diagnose
from food101_fast.bench.measure import Measurement, measure_within, median_of_ratios
from food101_fast.bench.progress import Progress
from food101_fast.bench.provenance import Watch
from food101_fast.bench.reading import cold_read
from food101_fast.bench.settings import BenchSettings
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
from food101_fast.shards import ShardSet
from food101_fast.train.compiling import use_cache_folder
from food101_fast.train.step import TrainStep

RESULT_VERSION = 2

GROUPS: dict[str, tuple[str, ...]] = {
    "loader": ("read", "gather", "decode", "checksum", LOADER, "host to device"),
    "transforms": ("transforms",),
    "train": ("forward", *PARTS, LOADER, FIXED, NO_TRANSFORMS, NO_MODEL, WHOLE),
}
"""The stages of each of the commands that measure a part only."""


_COLD_SHARE = 0.07
"""Of the budget: what reading from the disk may take."""


class Subject:
    """What is measured, made ready.

    Args:
        settings: what that is.
        deadline: reading of `time.perf_counter` before which steps should be measured. On a CPU the batch is reduced
            where that would take longer; None leaves it as it is.

    Attributes:
        device: where it is computed.
        recipe: of the step, with the batch size that is measured.
        reduced: a sentence that says why the batch is smaller than asked for; None if it is not.
        loader: of the training split.
        step: the model and its step, with a learning rate of 0: thousands of steps change nothing.
        watch: takes notes from here on.
        cold: bytes per second of shards that are not in memory, see `cold_read`.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """

    def __init__(self, settings: BenchSettings, deadline: float | None = None) -> None:
        self.device = choose_device(settings.device)
        place, self.recipe = settings.chosen()
        set_up_device(self.device, tf32=self.recipe.tf32, cudnn_benchmark=self.recipe.cudnn_benchmark)
        shards = ShardSet.open(place)
        classes = len(shards.classes)
        self.watch = Watch(self.device)
        self.cold = cold_read(shards, _COLD_SHARE * settings.budget)  # before anything maps the files
        self.reduced: str | None = None
        if deadline is not None and self.device.type == "cpu":
            self._reduce_batch(settings, deadline, classes)
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
        self.step = TrainStep(recipe, build_model(recipe.model, "none", classes), self.device, classes)
        self.step.train_mode()
        self.step.prepare(0, 0.0)

    def _reduce_batch(self, settings: BenchSettings, deadline: float, classes: int) -> None:
        asked, rounds = self.recipe.batch_size, min(settings.repetitions, ENOUGH)
        per_image = seconds_per_image(self.recipe, self.device, classes)
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
) -> dict[str, Any]:
    """Measure stages and ceilings; the result is what `--json` writes.

    Args:
        settings: what is measured.
        stages: names of those to measure, of which those that do not apply are passed over; all by default.
        keep_batch: never reduce the batch, even if only a round or two then fit into the budget.
        progress: is told how it goes on.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """
    begun = time.perf_counter()
    deadline = begun + settings.budget
    has_steps = stages is None or WHOLE in stages
    subject = Subject(settings, deadline if has_steps and not keep_batch else None)
    loader, step, device = subject.loader, subject.step, subject.device
    if progress is not None:
        progress.say(_introduction(subject))
    all_of_them = {**loading_stages(loader), **computing_stages(loader, step, settings.loading.prefetch)}
    chosen = {name: stage for name, stage in all_of_them.items() if stages is None or name in stages}
    limits = ceilings(device, step.precision.dtype)

    def found(rates: Mapping[str, list[float]]) -> dict[str, Any]:
        return {
            "settings": {
                "recipe": asdict(subject.recipe),
                **{name: getattr(settings, name) for name in ("budget", "seconds", "repetitions")},
            },
            "precision": _precision(step),
            "loading": _loading(loader, settings),
            "ceilings": {
                name: {"per_second": statistics.median(rates[name]), "repetitions": rates[name]} for name in limits
            },
            "stages": {name: _summary(stage, rates[name], rates) for name, stage in chosen.items()},
            "cold_read": subject.cold,
            **_derived(rates),
        }

    def first_answer(rates: Mapping[str, list[float]]) -> str | None:
        if stages is not None:
            return None
        provenance = {"machine": asdict(machine(device))}
        text: str = diagnose(found(rates) | {"provenance": provenance}, brief=True)["sentence"]
        return text

    if progress is not None:
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
    return {
        "version": RESULT_VERSION,
        "provenance": subject.watch.notes(),
        **found(measured.rates),
        "timing": {
            "preparing": prepared - begun,
            "warm_up": measured.warm_up_seconds,
            "all": time.perf_counter() - begun,
            "repetition": measured.seconds,
        },
        "remarks": [*filter(None, (subject.reduced, _shortened(measured, settings)))],
    }


def _introduction(subject: Subject) -> str:
    """What is about to be measured, in words."""
    recipe = subject.recipe
    return (
        f"measuring {recipe.model} at {recipe.image_size} px, batch {recipe.batch_size}, {_precision(subject.step)}, "
        f"on {machine(subject.device).device}"
    )


def _precision(step: TrainStep) -> str:
    """In which type the step multiplies matrices, such as float32."""
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


def _summary(stage: Stage, rates: list[float], all_rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """Median and repetitions of a stage, and its share of the ceiling, repetition by repetition."""
    summary: dict[str, Any] = {"images_per_second": statistics.median(rates), "repetitions": rates}
    if stage.amount is not None and stage.ceiling is not None:
        summary |= {
            "amount_per_image": stage.amount,
            "ceiling": stage.ceiling,
            "share_of_ceiling": statistics.median(shares(rates, stage.amount, all_rates[stage.ceiling])),
        }
    return summary


def _derived(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """What follows from the rates: gains where something is free (and whether loading costs anything in each of the
    repetitions), and how far the parts add up to the whole."""
    derived: dict[str, Any] = {}
    if WHOLE in rates:
        free = {"loading": FIXED, "transforms": NO_TRANSFORMS, "model": NO_MODEL}
        derived["free"] = {name: median_of_ratios(rates[stage], rates[WHOLE]) for name, stage in free.items()}
        derived["loading_costs"] = min(map(truediv, rates[FIXED], rates[WHOLE])) > 1
    if FIXED in rates:
        seconds = [sum(1 / rates[part][i] for part in PARTS) for i in range(len(rates[FIXED]))]
        derived["parts_over_fixed_batch"] = median_of_ratios(rates[FIXED], [1 / total for total in seconds])
    return derived


def _loading(loader: ShardLoader, settings: BenchSettings) -> dict[str, Any]:
    manifest = loader.shards.manifest
    return {
        "encoding": manifest.encoding,
        "stored_size": manifest.image_size,
        "place": "local" if loader.split.is_local else "remote",
        "bytes": int(loader.split.shard_bytes.sum()),
        "decoded_bytes": len(loader.split) * loader.split.row_bytes,
        "free_memory": free_host_memory(),
        "threads": loader.threads,
        "cores": machine(loader.device).cores,
        "verify": settings.loading.verify,
        "residence": loader.residence,
        "residence_reason": loader.residence_reason,
        "window": loader.window,
        "counters": asdict(loader.counters),
    }
