"""Validation follows the weights, is compiled once in a run, and its compilation is counted as that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train
from food101_fast.train.schedule import Phase
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import FirstCall, eval_twin
from tests.train.test_step import SGD, batch, small_model

RECIPE = Recipe(weights="none", image_size=32, epochs=4, batch_size=16, unfreeze_epochs=2, compile="on")
SMALL = Hooks(build_model=lambda *_: small_model())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Counts the graphs of training and of validation; they are run as they are, instead of compiled for minutes."""
    counts = {"training": 0, "validation": 0}
    real = torch.compile

    def counted(module: nn.Module, *, fullgraph: bool, dynamic: bool, mode: str) -> Callable[..., Any]:
        kind = "training" if module.training else "validation"

        def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
            counts[kind] += 1
            return graph.forward

        return module if fullgraph else real(module, backend=backend, dynamic=dynamic)  # the transforms stay eager

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", counted)
    yield counts
    torch.compiler.reset()


def train_phases(shards: ShardSet, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train, and say how many phases there were."""
    phases = set()
    enter = TrainStep.start_phase

    def noted(self: TrainStep, phase: Phase) -> None:
        phases.add(phase)
        enter(self, phase)

    monkeypatch.setattr(TrainStep, "start_phase", noted)
    train(shards, run, recipe, device="cpu", hooks=SMALL)
    return len(phases)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_validation_is_compiled_once_though_layers_are_unfrozen(
    ema_decay: float | None,
    graphs: dict[str, int],
    tiny_shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = dataclasses.replace(RECIPE, ema_decay=ema_decay)
    assert train_phases(tiny_shards, tmp_path / "run", recipe, monkeypatch) == 3
    assert graphs == {"training": 3, "validation": 1}


def test_the_twin_shows_what_was_trained(tmp_path: Path) -> None:
    """In every way in which a step changes weights and statistics, and at no cost in memory."""
    step = TrainStep(dataclasses.replace(SGD, optimizer="adamw"), small_model(), torch.device("cpu"))
    twin = eval_twin(step.evaluated)
    for frozen in (1, 0):
        step.start_phase(Phase(32, frozen=frozen))
        step.train_mode()
        for _ in range(2):
            step(batch(), 0)
    state, trained = twin.state_dict(), step.model.state_dict()
    assert state.keys() == trained.keys()
    for name, value in trained.items():
        assert torch.equal(state[name], value), name
        assert state[name].data_ptr() == value.data_ptr(), name
    assert step.model.training
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in step.model.parameters())
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        logits = twin(images)
        assert torch.equal(logits, step.model.eval()(images))


def test_the_first_call_is_timed_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 13.5, 20.0])
    monkeypatch.setattr("food101_fast.train.validate.time.perf_counter", lambda: next(now))
    call = FirstCall(lambda images: images + 1)
    assert call.seconds == 0
    for _ in range(3):
        assert call(torch.ones(1)) == 2
        assert call.seconds == 3.5


def test_compiling_validation_is_counted_as_compilation(
    graphs: dict[str, int], tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that moves only where something compiles: a day for a training graph, an hour for validation."""
    day, hour, clock = 86400.0, 3600.0, [0.0]

    def slow(function: Callable[..., Any], kind: str, seconds: float) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            before = graphs[kind]
            result = function(*arguments)
            clock[0] += seconds * (graphs[kind] - before)
            return result

        return call

    first = FirstCall.__init__
    monkeypatch.setattr(TrainStep, "update", slow(TrainStep.update, "training", day))
    monkeypatch.setattr(FirstCall, "__init__", lambda self, function: first(self, slow(function, "validation", hour)))
    for module in ("loop", "compile_control", "validate", "meter"):
        monkeypatch.setattr(f"food101_fast.train.{module}.time", FakeTime(clock))
    recipe = dataclasses.replace(RECIPE, epochs=3, unfreeze_epochs=1)
    rows = train(tiny_shards, tmp_path / "run", recipe, device="cpu", hooks=SMALL)
    timings = [row.timing for row in rows.metrics]
    assert [timing.compile_seconds for timing in timings] == [day + hour, day, 0]
    assert [timing.validation_seconds for timing in timings] == [0, 0, 0]
    assert [timing.seconds for timing in timings] == [0, 0, 0]


class FakeTime:
    """The module `time` with clocks that a test moves."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def perf_counter(self) -> float:
        return self._clock[0]

    monotonic = perf_counter
