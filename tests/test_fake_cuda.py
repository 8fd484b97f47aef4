"""On a CUDA device nothing in a training step, in validation or in the loader waits; checked without a device.

All of it runs on fake CUDA tensors, which have no values; see `tests.fake_cuda` for what is caught, and for what isn't.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2

from food101_fast import transforms as T
from food101_fast.compute.distributed import World
from food101_fast.compute.logits import predict
from food101_fast.compute.precision import Precision
from food101_fast.evaluate.views import views
from food101_fast.images import Rules
from food101_fast.loader import Batch, ShardLoader
from food101_fast.loader.buffers import Loaded, PinnedRing
from food101_fast.loader.nvjpeg import DeviceRing, GpuDecoder
from food101_fast.loader.pipeline import Counters
from food101_fast.loader.residence import ResidentRows
from food101_fast.predict import Classifier
from food101_fast.runs.recipe import Amp, Optimizer
from food101_fast.shards import ShardSet
from food101_fast.train import RECIPES, Recipe
from food101_fast.train.meter import EpochMeter
from food101_fast.train.schedule import Phase
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import validate
from food101_fast.transforms import PRESETS, EvalSpec, Preset, eval_preset, train_preset
from tests.fake_cuda import CUDA, FakeCuda, WaitsError, fake_cuda
from tests.transforms.cases import CASES, Case

TINY = Recipe(weights="none", image_size=32, batch_size=8, compile="off", cuda_graph="off", preset="baseline")


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


def small_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5),
    )  # fmt: skip


def images(samples: int = 8, size: int = 40, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.zeros(samples, size, size, 3, dtype=dtype, device=CUDA).permute(0, 3, 1, 2)


def batch(samples: int = 8, size: int = 40) -> Batch:
    numbers = torch.arange(samples, device=CUDA)
    return Batch(images(samples, size), numbers % 5, numbers)


def made_step(mode: FakeCuda, recipe: Recipe, model: nn.Module | None = None) -> TrainStep:
    with mode.waiting_allowed():  # it is made once, and put into training mode once an epoch
        step = TrainStep(recipe, model or small_model(), CUDA, 5)
        step.train_mode()
    return step


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_transform_waits_for_nothing(case: Case, dtype: torch.dtype, cuda: FakeCuda) -> None:
    given = images(dtype=dtype)
    with cuda.waiting_allowed():  # a transform is moved once
        transform = case.make().to(CUDA)
    out = transform(given)
    assert (out.device, out.dtype, out.shape) == (CUDA, dtype, given.shape)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.RandomResizedCrop(24),
        lambda: T.RandomResizedCrop((20, 28), interpolation="bicubic"),
        lambda: T.RandomErasing(0.5, value="random"),
        lambda: T.Resize(24),
        lambda: T.CenterCrop(24),
        lambda: T.Pad(2),
    ],
)
def test_transforms_that_are_tested_elsewhere_wait_for_nothing(make: Callable[[], nn.Module], cuda: FakeCuda) -> None:
    assert make()(images(dtype=torch.float32)).device == CUDA


@pytest.mark.parametrize("kind", [T.MixUp, T.CutMix])
@pytest.mark.parametrize("soft", [False, True])
def test_mixing_waits_for_nothing(kind: type[T.MixUp | T.CutMix], soft: bool, cuda: FakeCuda) -> None:
    transform = kind(alpha=0.4, num_classes=5)
    labels = torch.zeros(8, 5, device=CUDA) if soft else torch.zeros(8, dtype=torch.int64, device=CUDA)
    with cuda.waiting_allowed() as waits:
        transform(images(dtype=torch.float32), labels)
    assert waits == ["a copy of (4097,) from cpu to cuda"]  # the quantiles, once
    mixed, shares = transform(images(dtype=torch.float32), labels)
    assert (mixed.device, shares.device, shares.shape) == (CUDA, CUDA, (8, 5))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_waits_for_nothing(name: str, cuda: FakeCuda) -> None:
    with cuda.waiting_allowed():
        preset = train_preset(name, 24, num_classes=5).to(CUDA)
    given = batch()
    epoch = torch.zeros((), dtype=torch.int64, device=CUDA)
    out, labels = preset(given.images, given.labels, seed=0, epoch=epoch, ids=given.ids)
    assert (out.device, out.dtype, out.shape) == (CUDA, torch.float32, (8, 3, 24, 24))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert labels.device == CUDA


@pytest.mark.parametrize("amp", ["fp16", "bf16", "off"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_waits_for_nothing(amp: Amp, optimizer: Optimizer, cuda: FakeCuda) -> None:
    recipe = dataclasses.replace(TINY, amp=amp, optimizer=optimizer, ema_decay=0.9, clip_norm=1.0, label_smoothing=0.1)
    step = made_step(cuda, recipe)
    given, labels = images(dtype=torch.float32), torch.arange(8, device=CUDA) % 5
    for number in range(2):  # the first one makes the optimizer's state
        step.prepare(number, 0.5)
        loss, correct = step.update(given, labels)
    assert (loss.device, correct.device) == (CUDA, CUDA)
    assert step.precision.scaler.is_enabled()
    seen = step.logits(given)
    assert seen.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16, "off": torch.float32}[amp]
    held = [*step.model.parameters(), *step.model.buffers(), step.streak, step.skipped]
    assert {tensor.device for tensor in held} == {CUDA}
    assert all(parameter.grad is not None for parameter in step.model.parameters())


@pytest.mark.parametrize("recipe", ["baseline", "strong", "unfreeze"])
def test_the_recipes_wait_for_nothing(recipe: str, cuda: FakeCuda) -> None:
    """From stored images on, in two parts, and with all layers but the last frozen where they are in the beginning."""
    settings = dataclasses.replace(
        RECIPES[recipe], image_size=32, weights="none", compile="off", cuda_graph="off", accumulate=2
    )
    step = made_step(cuda, settings, MobileNetV2(5, inverted_residual_setting=[[1, 8, 1, 1], [6, 8, 2, 2]]))
    frozen = len(step.layers) - 1 if settings.unfreeze_epochs else 0
    with cuda.waiting_allowed():  # a phase is entered a few times in a run
        step.start_phase(Phase(32, frozen=frozen))
        step.train_mode()
    step.prepare(0, 1.0)
    step(batch(), 0)
    assert step.model.training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_layers_wait_for_nothing(optimizer: Optimizer, cuda: FakeCuda) -> None:
    recipe = dataclasses.replace(TINY, optimizer=optimizer, freeze="backbone", layer_decay=0.5, ema_decay=0.9)
    step = made_step(cuda, recipe)
    with cuda.waiting_allowed():
        step.train_mode()
    for number in range(2):
        step.prepare(number, 0.5)
        step(batch(), 0)
    assert sum(parameter.grad is not None for parameter in step.model.parameters()) == len(step.layers[-1])


@pytest.mark.parametrize("amp", ["fp16", "off"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_can_be_captured(
    amp: Amp, optimizer: Optimizer, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph captures waits for nothing, and takes from the host no number that changes in a run."""
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    recipe = dataclasses.replace(
        TINY, amp=amp, optimizer=optimizer, layer_decay=0.5, ema_decay=0.9, clip_norm=1.0, cuda_graph="on"
    )
    step, given = made_step(cuda, recipe), batch()
    number = torch.zeros((), device=CUDA)
    for _ in range(2):
        loss, correct = step._capturable(given.images, given.labels, given.ids, number.long(), number, number)
    assert (loss.device, correct.device) == (CUDA, CUDA)
    assert step.average is not None
    assert step.average.updates == 0  # the host counts outside of the graph
    assert all(type(group["lr"]) is float for group in step.optimizer.param_groups)


@dataclasses.dataclass
class Split:
    """As much of a loader as validation needs."""

    batch_size: int = 8
    device: torch.device = CUDA
    split: range = range(21)
    counters: Counters = dataclasses.field(default_factory=Counters)

    def __iter__(self) -> Iterator[Batch]:
        return iter([batch(8), batch(8), batch(5)])


@pytest.mark.parametrize("amp", ["fp16", "bf16", "off"])
def test_validation_waits_once(amp: str, cuda: FakeCuda) -> None:
    with cuda.waiting_allowed():
        model, preset = small_model().to(CUDA).eval(), eval_preset(24, 40).to(CUDA)
    with cuda.waiting_allowed() as waits:
        validate(model, Split(), preset, Precision(amp, CUDA))  # type: ignore[arg-type]
    assert waits == ["a value is read"] * 3  # of one tensor


@pytest.mark.parametrize("tta", ["none", "flip", "crops"])
def test_predictions_wait_for_nothing(tta: Any, cuda: FakeCuda) -> None:
    with cuda.waiting_allowed():
        model = small_model().to(CUDA).eval()
        presets = [preset.to(CUDA) for preset in views(tta, EvalSpec.of(24, 40))]
    for preset in presets:
        parts = list(predict(model, Split(), preset, Precision("fp16", CUDA)))  # type: ignore[arg-type]
        assert [logits.shape for logits, _, _ in parts] == [(8, 5), (8, 5), (5, 5)]
        assert {tensor.device for part in parts for tensor in part} == {CUDA}


def test_a_classifier_sends_pixels_and_gets_probabilities(cuda: FakeCuda) -> None:
    with cuda.waiting_allowed():
        classes = tuple("abcde")
        spec = EvalSpec.of(24, 40)
        classifier = Classifier(small_model(), classes, Rules(size=40), spec, CUDA, Precision("fp16", CUDA))
    with cuda.waiting_allowed() as waits:
        classifier.probabilities(np.zeros((4, 40, 40, 3), np.uint8))
    assert waits == ["a copy of (4, 40, 40, 3) from cpu to cuda", "a copy of (4, 5) from cuda to cpu"]


def test_sums_of_an_epoch_wait_when_they_are_read(cuda: FakeCuda) -> None:
    with cuda.waiting_allowed():
        meter = EpochMeter(Split(), World())  # type: ignore[arg-type]
    loss, correct = torch.zeros((), dtype=torch.float64, device=CUDA), torch.zeros((), device=CUDA)
    meter.add(loss, correct, 8)
    with cuda.waiting_allowed() as waits:
        meter.results()
    assert waits == ["a value is read"] * 3  # of one tensor


class Stream:
    """Of streams and events nothing is checked but that the calls fit."""

    def __init__(self, device: torch.device | None = None) -> None:
        pass

    def wait_event(self, event: Stream) -> None:
        assert isinstance(event, Stream)

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.Event", Stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: stream)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Stream())
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)


@pytest.mark.usefixtures("streams")
def test_batches_go_to_the_device_without_waiting(tiny_shards: ShardSet, cuda: FakeCuda) -> None:
    """Out of page-locked memory, labels and ids too, and into the rows that are held there."""
    split = tiny_shards.split("train")
    ring, held = PinnedRing(8, split.row_bytes, CUDA, slots=2), ResidentRows(split, CUDA)
    for first in (0, 8, 16):
        ids = np.arange(first, first + 8)
        buffer = ring.take(8)
        labels = split.gather(ids, buffer.rows)
        loaded = ring.send(buffer, torch.from_numpy(np.stack([labels, ids])))
        loaded.wait()
        held.keep(loaded, ids)
        assert (loaded.rows.device, loaded.numbers.device) == (CUDA, CUDA)
    rows, numbers = held.select(loaded.numbers[1])
    assert (rows.shape, numbers.shape) == ((8, split.row_bytes), (8,))


def test_an_epoch_of_rows_on_the_device_sends_its_ids_without_waiting(tiny_shards: ShardSet, cuda: FakeCuda) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=8)
    loader.device = CUDA
    batches = list(loader._selected(ResidentRows(loader.split, CUDA), loader._order(), range(len(loader))))
    assert len(batches) == len(loader)
    assert {tensor.device for of in batches for tensor in (of.rows, of.numbers)} == {CUDA}


@pytest.mark.usefixtures("streams")
def test_what_nvjpeg_decodes_stays_on_the_device(cuda: FakeCuda) -> None:
    def decode(files: list[Tensor], *, mode: str, device: torch.device) -> list[Tensor]:
        return [torch.zeros(3, 32, 32, dtype=torch.uint8, device=device) for _ in files]

    files = [torch.zeros(100, dtype=torch.uint8) for _ in range(4)]
    split = SimpleNamespace(encoding="jpeg", image_size=32, payloads=lambda ids: (files, np.arange(4)))
    decoder = GpuDecoder(split, CUDA, decode)  # type: ignore[arg-type]
    ring = DeviceRing(32 * 32 * 3, CUDA, decoder.stream)
    buffer = ring.take(4)
    labels = decoder.gather(np.arange(4), buffer.rows)
    loaded = ring.send(buffer, torch.from_numpy(np.stack([labels, np.arange(4)])))
    loaded.wait()
    assert (loaded.rows.device, loaded.numbers.device) == (CUDA, CUDA)


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "a constant of the CPU": lambda x: x * torch.tensor([1.0, 2.0, 3.0])[:, None, None],
    "a constant without dimensions of the CPU": lambda x: torch.where(x > 0, x, torch.tensor(1.0)),
    "an index of the CPU": lambda x: x[torch.arange(2)],
    "a value is read": lambda x: x.mean().item(),
    "a decision": lambda x: x if x.mean() > 0 else -x,
    "a list": lambda x: x.flatten()[:3].tolist(),
    "an equality": lambda x: torch.equal(x, x),
    "a mask is read": lambda x: x[x > 0],
    "a mask is written": lambda x: x.clone().index_put_((x > 0,), torch.ones(1, device=x.device)),
    "what is not zero": lambda x: x.nonzero(),
    "different values": lambda x: x.unique(),
    "a constant is sent": lambda x: x * torch.tensor([1.0, 2.0, 3.0], device=x.device)[:, None, None],
    "pageable memory is sent": lambda x: torch.zeros(3).to(x.device),
    "pageable memory is sent, it says without waiting": lambda x: torch.zeros(3).to(x.device, non_blocking=True),
    "a copy to the host": lambda x: x.cpu(),
    "a copy into the host": lambda x: torch.zeros(x.shape).copy_(x),
    "a number of repetitions": lambda x: x[:3, 0, 0, 0].repeat_interleave(torch.ones(3, device=x.device).long()),
}


class Planted(nn.Module):
    """Gives its input back, after a fault."""

    def __init__(self, fault: Callable[[Tensor], object]) -> None:
        super().__init__()
        self._fault = fault

    def forward(self, given: Tensor) -> Tensor:
        self._fault(given.float())
        return given


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, cuda: FakeCuda) -> None:
    """In a preset, and in the model."""
    with cuda.waiting_allowed():
        preset = Preset([*eval_preset(24, 40).transforms, Planted(FAULTS[fault])]).to(CUDA)
    step = made_step(cuda, TINY, nn.Sequential(Planted(FAULTS[fault]), small_model()))
    with pytest.raises(WaitsError):
        preset(images())
    with pytest.raises(WaitsError):
        step.update(images(dtype=torch.float32), torch.arange(8, device=CUDA) % 5)


@pytest.mark.usefixtures("streams")
def test_a_copy_of_pageable_memory_is_found_in_a_loader(
    tiny_shards: ShardSet, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    ring = PinnedRing(8, 4, CUDA, slots=2)
    with pytest.raises(WaitsError, match=r"a copy of \(2, 8\) from cpu to cuda"):
        ring.send(ring.take(8), torch.zeros(2, 8, dtype=torch.int64))


def test_what_does_not_wait_is_allowed(cuda: FakeCuda) -> None:
    x = torch.zeros(4, 3, device=CUDA)
    x[x > 0] = 1.0
    x[0] = 2.0
    assert x[torch.arange(2, device=CUDA)].shape == (2, 3)
    assert torch.zeros(3).pin_memory().to(CUDA, non_blocking=True).device == CUDA
    assert torch.where(x > 0, x, 0.0).shape == (4, 3)
    assert torch.zeros(3).sum().item() == 0  # on the CPU, where values are real
    assert torch.rand(5)[torch.ones(5) > 0].shape == (5,)
    assert Loaded(x, x).rows is x
