"""Measure the stages of a training step and the machine's own ceilings in turns, in images per second.

How much faster a step is without one of its parts is how much there is to gain, whatever runs beside what.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from operator import truediv
from typing import Any

from food101_fast.bench.ceilings import ceilings, shares
from food101_fast.bench.measure import measure, median_of_ratios
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
from food101_fast.loader import ShardLoader
from food101_fast.loader.residence import free_host_memory
from food101_fast.shards import ShardSet
from food101_fast.train.device import choose_device, machine, set_up_device
from food101_fast.train.model import build_model
from food101_fast.train.step import TrainStep

RESULT_VERSION = 2

GROUPS: dict[str, tuple[str, ...]] = {
    "loader": ("read", "gather", "decode", "checksum", LOADER, "host to device"),
    "transforms": ("transforms",),
    "train": ("forward", *PARTS, LOADER, FIXED, NO_TRANSFORMS, NO_MODEL, WHOLE),
}
"""The stages of each of the commands that measure a part only."""


class Subject:
    """What is measured, made ready.

    Args:
        settings: what that is.

    Attributes:
        device: where it is computed.
        recipe: of the step.
        loader: of the training split.
        step: the model and its step, with a learning rate of 0: thousands of steps change nothing.
        watch: takes notes from here on.
        cold: bytes per second of shards that are not in memory, see `cold_read`.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """

    def __init__(self, settings: BenchSettings) -> None:
        self.device = choose_device(settings.device)
        place, self.recipe = settings.chosen()
        recipe = self.recipe
        set_up_device(self.device, tf32=recipe.tf32)
        shards = ShardSet.open(place)
        self.watch = Watch(self.device)
        self.cold = cold_read(shards)  # before anything maps the files
        self.loader = ShardLoader(
            shards,
            split="train",
            batch_size=recipe.batch_size,
            device=self.device,
            window=recipe.window,
            **settings.loading.arguments(),
        )
        classes = len(shards.classes)
        self.step = TrainStep(recipe, build_model(recipe.model, "none", classes), self.device, classes)
        self.step.train_mode()
        self.step.prepare(0, 0.0)


def run_bench(settings: BenchSettings, stages: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Measure stages and ceilings; the result is what `--json` writes.

    Args:
        settings: what is measured.
        stages: names of those to measure, of which those that do not apply are passed over; all by default.

    Raises:
        UserError: the shards, the run, the model or the device can't be used.
    """
    subject = Subject(settings)
    loader, step, recipe, device = subject.loader, subject.step, subject.recipe, subject.device
    all_of_them = {**loading_stages(loader), **computing_stages(loader, step, settings.loading.prefetch)}
    chosen = {name: stage for name, stage in all_of_them.items() if stages is None or name in stages}
    limits = ceilings(device, step.precision.dtype)
    works = {**{name: stage.work for name, stage in chosen.items()}, **limits}
    rates = measure(
        works,
        seconds=settings.seconds,
        repetitions=settings.repetitions,
        device=device,
        primes={name: stage.prime for name, stage in chosen.items() if stage.prime is not None},
    )
    return {
        "version": RESULT_VERSION,
        "provenance": subject.watch.notes(),
        "settings": {
            "recipe": asdict(recipe),
            "seconds": settings.seconds,
            "repetitions": settings.repetitions,
        },
        "loading": _loading(loader, settings),
        "ceilings": {
            name: {"per_second": statistics.median(rates[name]), "repetitions": rates[name]} for name in limits
        },
        "stages": {name: _summary(stage, rates[name], rates) for name, stage in chosen.items()},
        "cold_read": subject.cold,
        **_derived(rates),
    }


def _summary(stage: Stage, rates: list[float], all_rates: dict[str, list[float]]) -> dict[str, Any]:
    """Median and repetitions of a stage, and its share of the ceiling, repetition by repetition."""
    summary: dict[str, Any] = {"images_per_second": statistics.median(rates), "repetitions": rates}
    if stage.amount is not None and stage.ceiling is not None:
        summary |= {
            "amount_per_image": stage.amount,
            "ceiling": stage.ceiling,
            "share_of_ceiling": statistics.median(shares(rates, stage.amount, all_rates[stage.ceiling])),
        }
    return summary


def _derived(rates: dict[str, list[float]]) -> dict[str, Any]:
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
        "cores": machine(loader.device)["cores"],
        "verify": settings.loading.verify,
        "residence": loader.residence,
        "residence_reason": loader.residence_reason,
        "window": loader.window,
        "counters": asdict(loader.counters),
    }
