"""The stages of a training step that are measured: each alone, some together, and all from shards.

The bottleneck is found by leaving work out: the step is also measured with a batch that is already in memory (loading
is free), with images that are already transformed, and without a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.flop_counter import FlopCounterMode

from food101_fast.bench.ceilings import DEVICE, HOST_TO_DEVICE, MATRIX, MEMORY
from food101_fast.bench.measure import Work
from food101_fast.bench.reading import read_work
from food101_fast.loader import Batch, ShardLoader
from food101_fast.shards.split import Split
from food101_fast.torch_threads import use_one_thread
from food101_fast.train.graph import CALLS_BEFORE_REPLAY, GraphedFunction, Results
from food101_fast.train.optimizer import learning_rate_on_device
from food101_fast.train.step import TrainStep

# Names of the stages that consist of others.
LOADER, FIXED, WHOLE = "loader", "step, fixed batch", "step from shards"
NO_TRANSFORMS, NO_MODEL = "step without transforms", "step without the model"
PARTS = ("transforms", "forward + backward", "optimizer")
"""What a step on a fixed batch consists of, one after the other."""
_ORDER = ("host to device", LOADER, "transforms", "forward", *PARTS[1:], FIXED, NO_TRANSFORMS, NO_MODEL, WHOLE)
"""In which the stages that compute take turns."""
_TRAINING = 3
"""Operations of a training step over those of its forward pass: as is the convention, a backward pass counts twice."""


@dataclass(frozen=True)
class Stage:
    """Something that is done with one batch at a time.

    Attributes:
        work: does it, and returns the number of images.
        amount: bytes or floating point operations per image, in the unit of the ceiling.
        ceiling: name of the hardware limit that bounds it; None if none of those that are measured does.
        prime: brings it into its steady state; called before each repetition.
    """

    work: Work
    amount: float | None = None
    ceiling: str | None = None
    prime: Callable[[], object] | None = None


def loading_stages(loader: ShardLoader) -> dict[str, Stage]:
    """What the loader's threads do, each in a single thread, on samples in random order."""
    split = loader.shards.split("train", verify="never")
    size = min(loader.batch_size, len(split))
    rng = np.random.default_rng(0)
    out = torch.empty(size, split.row_bytes, dtype=torch.uint8)
    mean_bytes = float(split.shard_bytes.sum()) / len(split)
    # Not all shards of a remote folder need fit into the cache at once.
    pool = np.arange(int(split.shard_samples[0]) if not split.is_local else len(split))

    def some() -> np.ndarray[Any, np.dtype[np.int64]]:
        return rng.choice(pool, size)

    # As in the loader's threads: with more than one OpenMP thread torch copies by another code path.
    thread = ThreadPoolExecutor(1, initializer=use_one_thread)

    def gather() -> float:
        thread.submit(split.gather, some(), out).result()
        return size

    def check() -> float:
        for payload in split.payloads(some())[0]:
            xxhash.xxh3_64_intdigest(payload.numpy().data)
        return size

    name = "gather" if split.encoding == "raw" else "decode"
    return {
        "read": Stage(read_work(loader.shards), mean_bytes, MEMORY),
        name: Stage(gather, split.row_bytes, MEMORY),
        "checksum": Stage(check, _payload_bytes(split, pool), MEMORY),
    }


def _payload_bytes(split: Split, pool: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    files, _ = split.payloads(pool[:256])
    return sum(file.numel() for file in files) / len(files)


def computing_stages(loader: ShardLoader, step: TrainStep, prefetch: int) -> dict[str, Stage]:
    """What the device does with a batch, alone and together with the loader."""
    ready = next(iter(loader))
    images, labels = step.augment(ready, epoch=0)
    flop = _flop_per_image(step, images)
    parts = Parts(step, ready, images, labels)
    # Read once as bytes, written once as floating numbers.
    moved = (ready.images.nbytes + images.nbytes) / len(labels)
    on_device = MEMORY if loader.device.type == "cpu" else DEVICE
    stages = {
        **_with_the_loader(loader, step, parts, prefetch, flop),
        **_on_one_batch(step, ready, parts, moved, on_device, flop),
    }
    if loader.device.type == "cuda":
        rows = torch.empty(len(labels), loader.split.row_bytes, dtype=torch.uint8).pin_memory()

        def send() -> float:
            rows.to(loader.device, non_blocking=True)
            return len(rows)

        stages["host to device"] = Stage(send, loader.split.row_bytes, HOST_TO_DEVICE)
    return {name: stages[name] for name in _ORDER if name in stages}


class Parts:
    """The parts of a step, each callable on its own.

    Where the step is a CUDA graph, each part is one, too: launching its kernels one by one may take the host longer
    than the device computes them.

    Args:
        step: the step that the parts are taken from.
        ready: a batch as the loader gives it.
        images: the augmented images of that batch.
        labels: their labels.
    """

    def __init__(self, step: TrainStep, ready: Batch, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._step, self._ready = step, ready
        given = (images, labels)
        # In this order: what the optimizer's graph reads and writes is what the backward pass's has left.
        self.augment = self._made(self._augment, ready.images, ready.labels, ready.ids)
        self.forward = self._made(self._forward, images)
        self.backward = self._made(step.backward, *given)
        self.apply = self._made(self._apply, step.streak)
        self.update = self._made(self._update, *given)

    def _augment(self, *batch: torch.Tensor) -> Results:
        return self._step.augment(Batch(*batch), epoch=0)

    def _forward(self, images: torch.Tensor) -> Results:
        with torch.no_grad():
            return (self._step.logits(images),)

    def _apply(self, _: torch.Tensor) -> Results:
        if not self._step.graphed:
            self._step.apply()
            return ()
        zero = torch.zeros((), device=self._step.device)
        with learning_rate_on_device(self._step.optimizer, zero):
            self._step.apply(zero)
        return ()

    def _update(self, images: torch.Tensor, labels: torch.Tensor) -> Results:
        self._step.backward(images, labels)
        return self._apply(labels)

    def _made(self, part: Callable[..., Results], *given: torch.Tensor) -> Callable[..., object]:
        """A function that runs `part` on the given tensors, or on others that it is called with."""
        if not self._step.graphed:
            return lambda *others: part(*(others or given))
        graph = GraphedFunction(part)
        for _ in range(CALLS_BEFORE_REPLAY):
            graph(given, ())
        return lambda *others: graph(others or given, ())


def _on_one_batch(
    step: TrainStep, ready: Batch, parts: Parts, moved: float, on_device: str, flop: float
) -> dict[str, Stage]:
    """A step and its parts on a batch that is already in memory."""
    size = len(ready.labels)

    def transform() -> float:
        parts.augment()
        return size

    def forward() -> float:
        parts.forward()
        return size

    def backward() -> float:
        parts.backward()
        return size

    def optimize() -> float:
        parts.apply()
        return size

    def fixed() -> float:
        step(ready, 0)
        return size

    return {
        "transforms": Stage(transform, moved, on_device),
        "forward": Stage(forward, flop, MATRIX),
        "forward + backward": Stage(backward, _TRAINING * flop, MATRIX),
        "optimizer": Stage(optimize),
        FIXED: Stage(fixed, _TRAINING * flop, MATRIX),
    }


def _with_the_loader(
    loader: ShardLoader, step: TrainStep, parts: Parts, prefetch: int, flop: float
) -> dict[str, Stage]:
    """The loader alone, the whole step from shards, and that step without transforms or model."""
    batches = endless(loader)  # one loader iterates once at a time

    def drain() -> None:
        """Take the batches that were prefetched while other stages ran; they would count as loaded in no time."""
        for _ in range(prefetch + 1):
            next(batches)

    def primed(work: Work) -> Callable[[], None]:
        def prime() -> None:
            drain()
            work()  # meanwhile the loader prefetches what it has time for

        return prime

    def load() -> float:
        return len(next(batches).labels)

    def without_transforms() -> float:
        loaded = len(next(batches).labels)
        parts.update()
        return loaded

    def without_model() -> float:
        batch = next(batches)
        parts.augment(batch.images, batch.labels, batch.ids)
        return len(batch.labels)

    def whole() -> float:
        batch = next(batches)
        step(batch, 0)
        return len(batch.labels)

    return {
        LOADER: Stage(load, loader.split.row_bytes, MEMORY, drain),
        NO_TRANSFORMS: Stage(without_transforms, prime=primed(without_transforms)),
        NO_MODEL: Stage(without_model, prime=primed(without_model)),
        WHOLE: Stage(whole, _TRAINING * flop, MATRIX, primed(whole)),
    }


def endless(loader: ShardLoader) -> Iterator[Batch]:
    """A loader's batches, epoch after epoch."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _flop_per_image(step: TrainStep, images: torch.Tensor) -> float:
    """Floating point operations of a forward pass, counted by torch.

    (torch counts the backward pass of grouped convolutions as if they had no groups.)
    """
    few = images[:2]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step.model(few)
    return float(counter.get_total_flops()) / len(few)
