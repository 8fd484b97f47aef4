"""A clock that moves only when something says so, and a training machine whose every work takes a known time on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from food101_fast.bench.ceilings import MATRIX, MEMORY
from food101_fast.bench.doctor import diagnose
from food101_fast.bench.measure import Work, measure
from food101_fast.bench.results import Findings, Loading, MeasuredSettings, Verdict
from food101_fast.bench.summary import summarize
from food101_fast.bench.works import computing_stages, loading_stages
from food101_fast.compute.device import Machine
from food101_fast.loader import Batch, ShardLoader
from food101_fast.loader.pipeline import Counters
from food101_fast.runs.recipe import Recipe
from food101_fast.train.step import TrainStep

BATCH, PREFETCH, SAMPLES, SIDE = 4, 4, 40, 8
MACHINE = Machine(device="cpu", processor="simulated", cores=4, torch_threads=1, system="")
LOADING = Loading(
    encoding="raw",
    stored_size=192,
    place="local",
    bytes=10,
    decoded_bytes=10,
    free_memory=1000,
    threads=1,
    cores=4,
    verify="first-epoch",
    residence="stream",
    residence_reason="",
    window=None,
    counters=Counters(),
)


class Clock:
    """Seconds, and who moved them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, amount: float) -> Callable[[], float]:
        """A work of so many seconds that returns `amount`."""

        def done() -> float:
            self.now += seconds
            self.calls.append(name)
            return amount

        return done


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds for each image."""

    read: float = 1e-5
    """Reading or downloading; all threads together."""
    work: float = 1e-4
    """Gathering or decoding, in one thread."""
    checksum: float = 1e-5
    """Comparing the checksum, in one thread."""
    transforms: float = 1e-4
    """Augmentation."""
    model: float = 1e-4
    """Forward, backward and a tenth of it for the optimizer."""

    def loading(self, loading: Loading) -> float:
        """Seconds that the loader needs for an image."""
        threads = (self.work + self.checksum * (loading.verify == "always")) / loading.threads
        return max(threads, self.read) if loading.place == "remote" else threads


class SimulatedLoader:
    """Gives batches that threads load ahead: `ahead` of them, one after the other.

    Args:
        clock: that waiting for a batch moves.
        costs: of each image.
        loading: what is loaded, and by how many threads.
    """

    device = torch.device("cpu")
    batch_size = BATCH

    def __init__(self, clock: Clock, costs: Costs, loading: Loading) -> None:
        self._clock = clock
        self._seconds = BATCH * costs.loading(loading)
        self._ready = 0.0
        self._freed = deque([0.0] * PREFETCH)

        def gather(ids: Any, out: Tensor) -> None:
            clock.now += costs.work * len(ids)

        def payloads(ids: Any) -> tuple[list[Tensor], None]:
            clock.now += costs.checksum * len(ids)
            return [torch.zeros(1, dtype=torch.uint8) for _ in ids], None

        def read(name: str) -> bytes:
            clock.now += costs.read * SAMPLES
            return b""

        self.split = _Split(encoding=loading.encoding, gather=gather, payloads=payloads)
        shard = SimpleNamespace(name="a shard", samples=SAMPLES)
        manifest = SimpleNamespace(splits={"train": SimpleNamespace(shards=[shard])})
        self.shards = SimpleNamespace(
            manifest=manifest, folder=SimpleNamespace(read=read), split=lambda name, verify: self.split
        )

    def __iter__(self) -> Iterator[Batch]:
        while True:
            # A batch is started when the one before is ready and there is room for it.
            self._ready = max(self._ready, self._freed.popleft()) + self._seconds
            self._clock.now = max(self._clock.now, self._ready)
            self._freed.append(self._clock.now)
            yield Batch(torch.zeros(BATCH, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(BATCH), torch.arange(BATCH))


class _Split:
    is_local = False  # so that it is read through the folder
    row_bytes = 3 * SIDE * SIDE
    shard_samples = torch.tensor([SAMPLES])
    shard_bytes = torch.tensor([SAMPLES * row_bytes])

    def __init__(self, encoding: str, gather: Callable[..., object], payloads: Callable[..., object]) -> None:
        self.encoding, self.gather, self.payloads = encoding, gather, payloads

    def __len__(self) -> int:
        return SAMPLES


class SimulatedStep:
    """A training step on a device that does everything at once."""

    graphed = False
    device = torch.device("cpu")
    streak = torch.zeros(())
    model = nn.Identity()

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self._clock, self._costs = clock, costs

    def __call__(self, batch: Batch, epoch: int) -> None:
        self.backward(*self.augment(batch, epoch))
        self.apply()

    def augment(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        self._clock.now += self._costs.transforms * BATCH
        return batch.images.float(), batch.labels

    def logits(self, images: Tensor) -> Tensor:
        self._clock.now += self._costs.model * BATCH / 3
        return images

    def backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self._clock.now += 0.9 * self._costs.model * BATCH
        return images, labels

    def apply(self) -> None:
        self._clock.now += 0.1 * self._costs.model * BATCH


def simulated_findings(costs: Costs, loading: Loading = LOADING, recipe: Recipe | None = None) -> Findings:
    """What bench finds on a machine with these costs: its own works and rounds, on a simulated clock."""
    clock = Clock()
    loader = cast(ShardLoader, SimulatedLoader(clock, costs, loading))
    step = cast(TrainStep, SimulatedStep(clock, costs))
    stages = {**loading_stages(loader), **computing_stages(loader, step, PREFETCH)}
    limits: dict[str, Work] = {name: clock.work(name, 1e-3, 1e6) for name in (MEMORY, MATRIX)}
    seconds = 10 * BATCH * max(costs.work, costs.read, costs.transforms, costs.model)
    rates = measure(
        {name: stage.work for name, stage in stages.items()} | limits,
        seconds=seconds,
        repetitions=3,
        device=torch.device("cpu"),
        primes={name: stage.prime for name, stage in stages.items() if stage.prime is not None},
        clock=clock,
    )
    settings = MeasuredSettings(
        recipe=recipe or Recipe(weights="none", batch_size=BATCH), budget=70, seconds=seconds, repetitions=3
    )
    return summarize(rates, stages, limits, settings=settings, precision="float32", loading=loading, cold_read=None)


def simulated_verdict(costs: Costs, loading: Loading = LOADING, recipe: Recipe | None = None) -> Verdict:
    """What the doctor says of such a machine."""
    return diagnose(simulated_findings(costs, loading, recipe), MACHINE)
