"""Sums over an epoch: losses and correct predictions on the device, times and waiting on the host."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from food101_fast.compute.distributed import World
from food101_fast.loader import ShardLoader
from food101_fast.loader.pipeline import Counters
from food101_fast.runs.results import Timing
from food101_fast.train.validate import LOSS_UNIT, in_units


@dataclass(frozen=True, kw_only=True)
class TrainResults:
    """What the steps of an epoch reached, over all ranks."""

    loss: float
    """Mean of the loss that training minimizes, see `EpochRow.train_loss`."""
    top1: float
    """Accuracy by plain logits, between 0 and 1."""


class EpochMeter:
    """Sums over an epoch, also across an interruption. They are integers, so they are exact and add up over ranks.

    Args:
        loader: of the epoch; its waiting is counted.
        world: the ranks.
        state: from `state_dict`, to resume an interrupted epoch.

    Attributes:
        compile_seconds: time of compilation in first steps; not included in `seconds`.
    """

    def __init__(self, loader: ShardLoader, world: World, state: dict[str, Any] | None = None) -> None:
        state = state or {"sums": [0, 0, 0], "seconds": 0.0, "compile_seconds": 0.0, "counters": asdict(Counters())}
        self._world = world
        self._loader = loader
        # Loss in units, correct predictions, images. Sums from before an interruption are added on the main rank only.
        sums = state["sums"] if world.is_main else [0, 0, 0]
        self._sums = torch.tensor(sums, dtype=torch.int64, device=loader.device)
        self._earlier = Counters(**state["counters"])
        self._at_start = replace(loader.counters)
        self.compile_seconds: float = state["compile_seconds"]
        self._seconds_earlier: float = state["seconds"]
        self._start = time.perf_counter()

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Add a step: its mean loss and its correct predictions, on the device; nothing if the loss is not finite."""
        numbers = torch.stack([in_units(loss) * images, correct.long(), torch.full_like(correct, images).long()])
        self._sums += numbers * torch.isfinite(loss)

    def leave_out(self, seconds: float) -> None:
        """Count these seconds as compilation, not as training."""
        self.compile_seconds += seconds
        self._start += seconds

    @property
    def seconds(self) -> float:
        """Time of the steps so far."""
        return self._seconds_earlier + time.perf_counter() - self._start

    @property
    def counters(self) -> Counters:
        """Counts of this rank's loader in the epoch."""
        now, earlier = asdict(self._loader.counters.since(self._at_start)), asdict(self._earlier)
        return Counters(**{name: now[name] + earlier[name] for name in now})

    def results(self) -> TrainResults:
        """Mean loss and accuracy over all ranks; waits for the device, and every rank must call it."""
        loss, correct, images = self._world.total(self._sums).tolist()
        return TrainResults(loss=loss * LOSS_UNIT / max(images, 1), top1=correct / max(images, 1))

    def timing(self) -> Timing:
        """Time of the steps so far, rates of all ranks together, and this rank's share of waiting."""
        counters, seconds = self.counters, self.seconds
        images = counters.images * self._world.size
        waited = min(counters.consumer_wait_seconds, seconds)
        return Timing(
            seconds=seconds,
            images=images,
            images_per_second=images / max(seconds, 1e-9),
            compute_images_per_second=images / max(seconds - waited, 1e-9),
            wait_share=waited / max(seconds, 1e-9),
            compile_seconds=self.compile_seconds,
            loader=counters,
        )

    def state_dict(self) -> dict[str, Any]:
        """The sums, to resume the epoch later; every rank must call it."""
        return {
            "sums": self._world.total(self._sums).tolist(),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "counters": asdict(self.counters),
        }
