"""The CUDA-graph path: all but the capture itself, which a stand-in replaces here; on CUDA the real one, too."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from food101_fast.bench.works import Parts
from food101_fast.compute.device import Device
from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.runs.recipe import Amp, Optimizer
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train import graph as graphs
from food101_fast.train import step as steps
from food101_fast.train.graph import GraphedFunction, check_graph, uses_graph
from food101_fast.train.schedule import Phase, lr_factor, never_trained
from food101_fast.train.step import TrainStep
from food101_fast.transforms import PRESETS
from tests.cuda_device import DEVICES, chosen, harmless_warnings, no_waiting

pytestmark = harmless_warnings

GRAPHED = Recipe(
    model="shufflenet_v2_x0_5", weights="none", image_size=32, batch_size=8, epochs=2, learning_rate=1e-2,
    schedule="cosine", layer_decay=0.7, compile="off", cuda_graph="on",
)  # fmt: skip


def imitated_capture(function: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """Like the real one it does nothing at first, and a replay writes into the tensors of the one before."""
    kept: list[Tensor] = []

    def replay() -> tuple[Tensor, ...]:
        results = function()
        kept.extend(torch.empty_like(result) for result in results[len(kept) :])
        for own, result in zip(kept, results, strict=True):
            own.copy_(result)
        return tuple(kept)

    return replay


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device with the graphs that it can have."""
    if request.param == "cpu":
        monkeypatch.setattr(graphs, "capture", imitated_capture)
        monkeypatch.setattr(graphs, "on_side_stream", lambda function: function())
        monkeypatch.setattr(graphs, "noting_waits", lambda function: (function(), None))
        monkeypatch.setattr(steps, "uses_graph", lambda recipe, *_: recipe.cuda_graph != "off")
    return chosen(request.param)


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        # A bias before a normalization has a gradient of 0 and some rounding, which Adam would turn into whole steps.
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 3),
    )  # fmt: skip


def batch(number: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    ids = torch.arange(8) + 8 * number
    return Batch(images.to(device), (ids % 3).to(device), ids.to(device))


def trained(recipe: Recipe, device: torch.device) -> tuple[list[float], list[Tensor]]:
    """Losses of twelve steps in two phases, and all that they have changed."""
    step = TrainStep(recipe, model(), device, 3)
    losses = []
    for number in range(12):
        if number in (0, 6):
            last = Phase(36, frozen=never_trained(recipe, len(step.layers)))
            step.start_phase(Phase(32, frozen=2) if number == 0 else last)
            step.train_mode()
        step.prepare(number, lr_factor(recipe, number, 6))
        loss, _ = step(batch(number, device), number // 6)
        losses.append(loss.item())
    kept = [*step.model.state_dict().values()]
    if step.average is not None:
        kept += step.average.model.state_dict().values()
    return losses, [value.detach().cpu().double() for value in kept]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_graphed_run_is_the_eager_one(device: torch.device, optimizer: Optimizer, amp: Amp) -> None:
    """With all that changes from step to step: batch, epoch, learning rate, average, dropout; and in two phases."""
    recipe = dataclasses.replace(GRAPHED, optimizer=optimizer, amp=amp, ema_decay=0.9, clip_norm=1.0)
    eager = trained(dataclasses.replace(recipe, cuda_graph="off"), device)
    graphed = trained(recipe, device)
    # On CUDA kernels add up in another order each time; on the CPU only the learning rate is rounded to float32.
    relative, absolute = (1e-4, 1e-5) if device.type == "cpu" else (0.05, 5e-3)
    assert graphed[0] == pytest.approx(eager[0], rel=relative, abs=absolute)
    for one, other in zip(graphed[1], eager[1], strict=True):
        torch.testing.assert_close(one, other, rtol=relative, atol=absolute)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_graph_leaves_frozen_layers_alone(device: torch.device, optimizer: Optimizer) -> None:
    decay = dataclasses.replace(GRAPHED, amp="off", optimizer=optimizer, weight_decay=0.1, ema_decay=0.9)
    recipe = dataclasses.replace(decay, freeze=1, layer_decay=0.5)
    eager = trained(dataclasses.replace(recipe, cuda_graph="off"), device)
    graphed = trained(recipe, device)
    assert torch.equal(graphed[1][0], model().state_dict()["0.weight"].double())
    for one, other in zip(graphed[1], eager[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_leaves_no_trace_in_a_graph_either(device: torch.device) -> None:
    step = TrainStep(dataclasses.replace(GRAPHED, amp="off", optimizer="sgd"), model(), device, 3)
    step.train_mode()
    for number in range(5):
        step.prepare(number, 1.0)
        step(batch(number, device), 0)
    before = {name: value.clone() for name, value in step.model.state_dict().items() if "num_batches" not in name}
    bias = step.model[9].bias.detach()
    kept = bias.clone()
    bias[0] = float("inf")
    step.prepare(5, 1.0)
    step(batch(5, device), 0)
    assert int(step.streak) == 1
    bias.copy_(kept)
    for name, value in before.items():
        assert torch.equal(value, step.model.state_dict()[name]), name


class Waiting(nn.Module):
    """Looks at what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum().item() > 0 else images * 2


def test_steps_that_wait_are_no_graph(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto` they are done one by one, and with the same results; who wants a graph is told why there is none."""
    if device.type == "cpu":
        monkeypatch.setattr(
            graphs, "noting_waits", lambda function: (function(), "in model.py, line 3, the host waits")
        )
    plain = model()
    losses: dict[str, list[float]] = {}
    for choice in ("off", "auto"):
        recipe = dataclasses.replace(GRAPHED, amp="off", cuda_graph=choice)
        step = TrainStep(recipe, nn.Sequential(Waiting(), copy.deepcopy(plain)), device, 3)
        step.train_mode()
        losses[choice] = []
        for number in range(7):
            step.prepare(number, 1.0)
            losses[choice].append(step(batch(number, device), 0)[0].item())
        assert not step.graphed
        assert (step.obstacle is None) == (choice == "off")
    assert losses["auto"] == pytest.approx(losses["off"], rel=0 if device.type == "cpu" else 1e-2)
    assert ".py, line " in str(step.obstacle)
    step = TrainStep(dataclasses.replace(GRAPHED, amp="off"), nn.Sequential(Waiting(), plain), device, 3)
    step.train_mode()
    for number in range(2):
        step(batch(number, device), 0)
    with pytest.raises(UserError, match=r"--cuda-graph on: a step of .* in .*, line \d+, the host waits"):
        step(batch(2, device), 0)


def test_only_what_the_thread_itself_waits_for_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's warnings, which this test gives instead."""

    def waits() -> tuple[Tensor, ...]:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", UserWarning, stacklevel=1)
        return ()

    def another_thread_waits() -> tuple[Tensor, ...]:
        thread = threading.Thread(target=waits)
        thread.start()
        thread.join()
        return ()

    modes: list[int | str] = []
    monkeypatch.setattr("torch.cuda.get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)
    found, obstacle = graphs.noting_waits(waits)
    assert found == ()
    assert obstacle is not None
    assert re.fullmatch(r"in .*test_cuda_graph\.py, line \d+, the host waits for the device", obstacle)
    assert graphs.noting_waits(another_thread_waits) == ((), None)
    with pytest.warns(UserWarning, match="something else"):
        graphs.noting_waits(lambda: warnings.warn("something else", stacklevel=1) or ())
    assert modes == ["warn", 0] * 3


def test_a_run_says_why_it_has_no_graph(
    device: torch.device, tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(graphs, "noting_waits", lambda function: (function(), "in model.py, line 3, the host waits"))
    recipe = dataclasses.replace(GRAPHED, cuda_graph="auto")
    train(tiny_shards, tmp_path / "run", recipe, device="cuda" if device.type == "cuda" else "cpu")
    assert "".join(capfd.readouterr()).count("cuda graph: off, in model.py, line 3, the host waits") == 1


def test_auto_is_wherever_there_can_be_a_graph() -> None:
    auto = dataclasses.replace(GRAPHED, cuda_graph="auto", compile="auto")
    cuda, overhead = torch.device("cuda"), "reduce-overhead"
    assert uses_graph(auto, cuda, World())
    assert not uses_graph(auto, torch.device("cpu"), World())
    assert not uses_graph(auto, cuda, World(0, 2))
    assert not uses_graph(dataclasses.replace(auto, compile_mode=overhead), cuda, World())  # type: ignore[arg-type]
    assert uses_graph(dataclasses.replace(auto, compile="off", compile_mode=overhead), cuda, World())  # type: ignore[arg-type]
    assert not uses_graph(dataclasses.replace(auto, cuda_graph="off"), cuda, World())


def test_the_parts_that_bench_measures_are_graphs_too(device: torch.device) -> None:
    """Captured one after the other and called in any order; a learning rate of 0 leaves the weights alone."""
    step = TrainStep(dataclasses.replace(GRAPHED, amp="off", ema_decay=0.9), model(), device, 3)
    step.train_mode()
    given = batch(0, device)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    images, labels = (tensor.clone() for tensor in step.augment(given, epoch=0))
    parts = Parts(step, given, images, labels)
    for part in (parts.update, parts.apply, parts.forward, parts.backward, parts.augment):
        for _ in range(2):
            part()
    parts.augment(given.images, given.labels, given.ids)
    for one, other in zip(before, step.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_replay_waits_for_nothing(device: torch.device, preset: str) -> None:
    """And moves every weight, in each of them."""
    recipe = dataclasses.replace(GRAPHED, optimizer="adamw", ema_decay=0.9, preset=preset)
    step = TrainStep(recipe, model(), device, 3)
    step.train_mode()
    given = [batch(number, device) for number in range(8)]
    for number in range(8):
        before = [parameter.detach().clone() for parameter in step.model.parameters()]
        step.prepare(number, 1.0)
        with no_waiting(device) if number > 4 else contextlib.nullcontext():
            loss, _ = step(given[number], 0)
        assert torch.isfinite(loss)
        assert not any(map(torch.equal, before, step.model.parameters()))
    assert step.average is not None
    assert step.average.updates == 8


def test_a_graphed_run_is_saved_and_goes_on(tiny_shards: ShardSet, tmp_path: Path, device: torch.device) -> None:
    recipe = dataclasses.replace(GRAPHED, optimizer="adamw", ema_decay=0.9, amp="off", learning_rate=1e-4)
    where: Device = "cuda" if device.type == "cuda" else "cpu"
    whole = train(tiny_shards, tmp_path / "whole", recipe, device=where).metrics
    train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, epochs=1, schedule="constant"), device=where)
    resumed = train(tiny_shards, tmp_path / "two", dataclasses.replace(recipe, cuda_graph="off"), device=where).metrics
    assert [row.step for row in resumed] == [row.step for row in whole]
    assert resumed[1].train_loss == pytest.approx(whole[1].train_loss, rel=0.05)
    more = dataclasses.replace(recipe, epochs=2, schedule="constant")
    on = train(tiny_shards, tmp_path / "run", more, device=where, resume=True).metrics
    assert [row.epoch for row in on] == [1, 2]
    # A number, as without a graph: the checkpoint must not depend on the device.
    state = torch.load(tmp_path / "run/checkpoints/last/state.pt", map_location="cpu", weights_only=True)
    assert all(type(group["lr"]) is float for group in state["step"]["optimizer"]["param_groups"])


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_every_call_counts_and_sees_its_own_numbers(device: torch.device) -> None:
    total = torch.zeros(())

    def add(tensor: Tensor, number: Tensor, whole: Tensor) -> tuple[Tensor]:
        assert (number.dtype, whole.dtype) == (torch.float32, torch.int64)
        total.add_(tensor.sum() * number + whole)
        return (total.clone(),)

    function = GraphedFunction(add)
    seen = [function([torch.full((2,), float(call))], (0.5, call))[0].item() for call in range(7)]
    assert seen == [sum(2 * call for call in range(last + 1)) for last in range(7)]
    with pytest.raises(ValueError, match="takes one shape"):
        function([torch.zeros(3)], (0.5, 1))


@pytest.mark.parametrize(
    ("changed", "device_type", "ranks", "message"),
    [
        ({}, "cpu", 1, "needs a CUDA device"),
        ({}, "cuda", 2, "one GPU only"),
        ({"compile": "on", "compile_mode": "reduce-overhead"}, "cuda", 1, "--compile-mode reduce-overhead"),
        ({"compile": "on", "compile_mode": "max-autotune"}, "cuda", 1, "--compile-mode max-autotune"),
    ],
)
def test_where_there_can_be_no_graph_it_says_so(
    changed: dict[str, str], device_type: str, ranks: int, message: str
) -> None:
    recipe = dataclasses.replace(GRAPHED, **changed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        check_graph(recipe, torch.device(device_type), World(0, ranks))
    check_graph(dataclasses.replace(GRAPHED, compile="on"), torch.device("cuda"), World())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_run_does_not_begin(tiny_shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cuda-graph on needs a CUDA device"):
        train(tiny_shards, tmp_path / "run", GRAPHED, device="cpu")
