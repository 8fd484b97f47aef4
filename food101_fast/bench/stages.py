"""Images per second of each stage alone and of all together, measured the same way in one run.

A repetition runs whole batches for a given time, after one that is not counted, with the device waited for before the
clock is read. The median over the repetitions counts, and all of them are kept.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from food101_fast.errors import UserError
from food101_fast.loader import Batch, LoaderOptions, ShardLoader
from food101_fast.shards import ShardSet
from food101_fast.train.device import Device, choose_device, machine
from food101_fast.train.model import build_model
from food101_fast.train.recipes import Recipe
from food101_fast.train.run import versions
from food101_fast.train.step import TrainStep

RESULT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Images per second of the loader, the transforms, the model and the whole training step."""

    shards: str
    """Folder of shards made by prepare or indexed by `shards index`, a path or a URL."""
    json: Path | None = None
    """File to write the results to, with hardware and versions."""
    model: str = "mobilenet_v2"
    """torchvision model to train a step of; its weights are random."""
    image_size: int = 160
    """Height and width that the model sees, in pixels."""
    batch_size: int = 64
    """Images in one step."""
    device: Device = "auto"
    """Where to compute; auto is CUDA where there is one."""
    amp: Literal["auto", "fp16", "bf16", "off"] = "auto"
    """Mixed precision, as in train."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile, as in train."""
    loading: LoaderOptions = field(default_factory=LoaderOptions)
    """How images are loaded."""
    seconds: float = 2.0
    """Length of one repetition; at least one batch is always measured."""
    repetitions: int = 5
    """Repetitions of each stage, after one that is not counted."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.repetitions < 1:
            raise UserError(
                f"--seconds {self.seconds} should be above 0 and --repetitions {self.repetitions} at least 1"
            )


def run_bench(settings: BenchSettings) -> dict[str, Any]:
    """Measure all stages; the result is what `--json` writes.

    Raises:
        UserError: the shards, the model or the device can't be used.
    """
    device = choose_device(settings.device)
    shards = ShardSet.open(settings.shards)
    recipe = Recipe(
        model=settings.model,
        weights="none",
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        amp=settings.amp,
        compile=settings.compile,
    )
    loader = ShardLoader(
        shards, split="train", batch_size=settings.batch_size, device=device, **settings.loading.arguments()
    )
    classes = len(shards.classes)
    step = TrainStep(recipe, build_model(settings.model, "none", classes), device, classes)
    step.train_mode()
    stages = {name: _measure(run, settings, device) for name, run in _stages(loader, step).items()}
    return {
        "version": RESULT_VERSION,
        "machine": machine(device),
        "versions": versions(),
        "settings": {name: value for name, value in asdict(settings).items() if name not in ("shards", "json")},
        "stored_size": shards.manifest.image_size,
        "stages": stages,
        "loader": {
            "residence": loader.residence,
            "residence_reason": loader.residence_reason,
            "counters": asdict(loader.counters),
        },
    }


def _stages(loader: ShardLoader, step: TrainStep) -> dict[str, Callable[[], int]]:
    """For each stage a function that does one batch and returns its number of images."""

    def loads() -> Iterator[Batch]:
        return itertools.chain.from_iterable(itertools.repeat(loader))

    fixed = step.augment(next(iter(loader)), epoch=0)
    alone, with_transforms, whole = loads(), loads(), loads()

    def load() -> int:
        return len(next(alone).labels)

    def load_and_augment() -> int:
        return step.augment(next(with_transforms), epoch=0)[0].shape[0]

    def model() -> int:
        step.update(*fixed)
        return len(fixed[1])

    def everything() -> int:
        batch = next(whole)
        step(batch, 0)
        return len(batch.labels)

    return {
        "loader": load,
        "loader + transforms": load_and_augment,
        "model, fixed batch": model,
        "training step from shards": everything,
    }


def _measure(run: Callable[[], int], settings: BenchSettings, device: torch.device) -> dict[str, Any]:
    rates = [_rate(run, settings.seconds, device) for _ in range(settings.repetitions + 1)][1:]
    return {"images_per_second": statistics.median(rates), "repetitions": rates}


def _rate(run: Callable[[], int], seconds: float, device: torch.device) -> float:
    _wait_for(device)
    images, start = 0, time.perf_counter()
    while not images or time.perf_counter() - start < seconds:
        images += run()
    _wait_for(device)
    return images / (time.perf_counter() - start)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
