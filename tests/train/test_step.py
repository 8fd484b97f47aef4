"""One step: what it computes, what it leaves alone, and what it skips."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from food101_fast.loader import Batch
from food101_fast.models import build_model
from food101_fast.runs.recipe import Amp, Optimizer
from food101_fast.train import RECIPES, Recipe
from food101_fast.train.ema import ModelAverage
from food101_fast.train.schedule import Phase
from food101_fast.train.step import TrainStep

CPU = torch.device("cpu")
SGD = Recipe(
    model="shufflenet_v2_x0_5", weights="none", image_size=32, batch_size=8, optimizer="sgd", learning_rate=0.1
)


def small_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def batch(samples: int = 8, size: int = 40) -> Batch:
    images = torch.randint(0, 256, (samples, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return Batch(images, torch.arange(samples) % 3, torch.arange(samples))


def everything(step: TrainStep) -> dict[str, torch.Tensor]:
    """A copy of all that a step may change, but for the scale and the counts of skipped steps."""
    values = dict(step.model.state_dict())
    if step.average is not None:
        values |= {f"average.{name}": value for name, value in step.average.model.state_dict().items()}
    for index, state in enumerate(step.optimizer.state.values()):
        values |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return {name: value.clone() for name, value in values.items()}


def weights(step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: value for name, value in everything(step).items() if not name.startswith("optimizer.")}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_step_is_the_plain_loop() -> None:
    """Against the five lines that anybody would write, over three steps."""
    model = small_model()
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, nesterov=True)
    step = TrainStep(dataclasses.replace(SGD, label_smoothing=0.1, momentum=0.9), model, CPU)
    step.train_mode()
    for _ in range(3):
        images, labels = step.augment(batch(), epoch=0)
        loss, correct = step.update(images, labels)
        logits = plain(images)
        expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert correct.item() == (logits.argmax(1) == labels).sum().item()
    for ours, theirs in zip(step.model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_parts_add_up_to_the_same_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    results = []
    for accumulate in (1, 2, 4):
        step = TrainStep(dataclasses.replace(SGD, accumulate=accumulate), copy.deepcopy(model), CPU)
        torch.manual_seed(3)
        results.append((step(batch(), 0), step.model.state_dict()))
    for (loss, correct), weights in results[1:]:
        assert loss.item() == pytest.approx(results[0][0][0].item(), rel=1e-6)
        assert correct == results[0][0][1]
        for key, value in weights.items():
            torch.testing.assert_close(value, results[0][1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_that_is_not_finite_leaves_no_trace(amp: Amp, optimizer: Optimizer) -> None:
    """Nor in the running statistics, which the forward pass has already changed."""
    recipe = dataclasses.replace(SGD, amp=amp, optimizer=optimizer, ema_decay=0.9, learning_rate=1e-2)
    step = TrainStep(recipe, small_model(), CPU)
    step.train_mode()
    step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0 if amp == "fp16" else 1.0)
    good, labels = step.augment(batch(), epoch=0)
    step.update(good, labels)
    before, scale = everything(step), step.precision.scaler.get_scale()
    for number in (1, 2):
        step.update(torch.full_like(good, float("inf")), labels)
        assert step.streak == number
    after = everything(step)
    # Averages move towards the weights in every step; batches are counted.
    counts = {name for name in before if name.endswith("num_batches_tracked")}
    assert {name for name in changed(before, after) - counts if not name.startswith("average.")} == set()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert step.precision.scaler.get_scale() == (scale / 4 if amp == "fp16" else 1.0)
    step.update(good, labels)
    assert (int(step.streak), int(step.skipped)) == (0, 2)
    assert "5.weight" in changed(after, everything(step))


def test_a_planted_overflow_of_the_scaled_gradients_halves_the_scale_only() -> None:
    """The loss is finite; only what the scale makes of its gradients is not: the ordinary case of fp16."""
    step = TrainStep(dataclasses.replace(SGD, amp="fp16"), small_model(), CPU)
    step.train_mode()
    step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    images, labels = step.augment(batch(), epoch=0)
    before = everything(step)
    loss, _ = step.update(images * 100, labels)
    assert torch.isfinite(loss)
    assert step.streak == 1
    assert step.precision.scaler.get_scale() == 2.0**126
    assert {name for name in changed(before, everything(step)) if "num_batches" not in name} == set()


def test_long_gradients_are_cut() -> None:
    moved = []
    for clip_norm in (None, 1e-3):
        torch.manual_seed(0)
        step = TrainStep(dataclasses.replace(SGD, clip_norm=clip_norm, momentum=0.5), small_model(), CPU)
        before = [p.detach().clone() for p in step.model.parameters()]
        step(batch(), 0)
        difference = [(p - q).flatten() for p, q in zip(step.model.parameters(), before, strict=True)]
        moved.append(torch.cat(difference).norm().item())
    # The first step of SGD with Nesterov momentum m goes lr * (1 + m) * gradient.
    assert moved[1] == pytest.approx(0.1 * 1.5 * 1e-3, rel=1e-2)
    assert moved[0] > 10 * moved[1]


def test_the_average_follows_its_formula() -> None:
    linear = nn.Linear(3, 2)
    model = nn.Sequential(linear, nn.BatchNorm1d(2))
    average = ModelAverage(model, 0.6)
    expected = linear.weight.detach().double()
    for number in range(1, 8):
        with torch.no_grad():
            linear.weight += 0.1 * number
        model(torch.randn(4, 3))
        average.update()
        decay = min(0.6, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * linear.weight.detach().double()
        torch.testing.assert_close(average.model[0].weight.double(), expected, rtol=1e-5, atol=1e-6)  # type: ignore[index]
    assert (1 + 7) / (10 + 7) < 0.6  # so the rising decay was used, and
    for _ in range(20):
        average.update()
    torch.testing.assert_close(average.model[0].weight, linear.weight, rtol=1e-3, atol=1e-3)  # type: ignore[index]
    assert average.model[1].num_batches_tracked == 7  # type: ignore[index]
    assert not average.model.training


def test_frozen_layers_keep_their_weights_and_statistics() -> None:
    step = TrainStep(SGD, build_model("shufflenet_v2_x0_5", "none", 3), CPU)
    step.start_phase(Phase(32, frozen=len(step.layers) - 1))
    step.train_mode()
    before = weights(step)
    step(batch(), 0)
    assert changed(before, weights(step)) == {"fc.weight", "fc.bias"}
    step.start_phase(Phase(32, frozen=0))
    step.train_mode()
    step(batch(), 0)
    assert changed(before, weights(step)) == set(before)


class Counted(TorchDispatchMode):
    """Counts in-place additions to whole numbers, of which batch normalization does one for each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::add_", "aten::copy_") and args[0].dtype == torch.int64:
            self.additions += 1
        return func(*args, **(kwargs or {}))


def test_all_layers_count_their_batches_at_once() -> None:
    step = TrainStep(dataclasses.replace(SGD, ema_decay=0.9), build_model("shufflenet_v2_x0_5", "none", 3), CPU)
    step.train_mode()
    images, labels = step.augment(batch(), epoch=0)
    with Counted() as counted:
        step.update(images, labels)
    counters = {name: value for name, value in step.model.state_dict().items() if name.endswith("num_batches_tracked")}
    assert len(counters) > 50
    assert {int(value) for value in counters.values()} == {1}
    # One for the counters, one for skipped steps, one for their streak.
    assert counted.additions <= 3


def test_a_layer_without_momentum_goes_on_counting_by_itself() -> None:
    """Its running mean is that of all batches, so it computes with the counter."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(2, 3, 32, 32))
    plain = copy.deepcopy(model)
    step = TrainStep(SGD, model, CPU)
    step.train_mode()
    images, labels = step.augment(batch(), epoch=0)
    step.update(images, labels)
    plain(images)
    for name, buffer in plain[1].named_buffers():
        torch.testing.assert_close(step.model[1].get_buffer(name), buffer)


def test_dropout_depends_on_the_step_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 3))
    drawn = []
    for number in (5, 6, 5):
        step = TrainStep(SGD, copy.deepcopy(model), CPU)
        step.train_mode()
        torch.manual_seed(3)
        data = batch()
        torch.rand(number)  # whatever was drawn before
        step.prepare(number, 1.0)
        drawn.append(step(data, 0)[0].item())
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "efficientnet_b0", "efficientnet_b3", "convnext_tiny"])
def test_every_model_trains_a_step_with_every_optimizer(name: str) -> None:
    for optimizer in ("adamw", "sgd"):
        recipe = Recipe(model=name, weights="none", image_size=32, optimizer=optimizer, layer_decay=0.9, ema_decay=0.9)
        step = TrainStep(recipe, build_model(name, "none", 3), CPU)
        step.train_mode()
        before = weights(step)
        loss, _ = step(batch(4), 0)
        assert 0 < loss.item() < 10
        trained = {key for key, _ in step.model.named_parameters()}
        # Blocks that stochastic depth has left out stand still for a step.
        assert len(trained - changed(before, weights(step))) < 0.2 * len(trained)


def heads() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    # RegNets compute their widths with tensors, which the meta device can't.
    return [name for name in names if "regnet" not in name]


@pytest.mark.parametrize("quarter", range(4))
def test_every_model_of_torchvision_has_a_head_and_groups(quarter: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from food101_fast.models import head_of, layer_groups

    for name in vars(nn.init):
        if name.endswith("_") and not name.startswith("_"):  # initial values, most of the work, are of no use here
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
    with torch.device("meta"):
        for name in heads()[quarter::4]:
            model = build_model(name, "none", 7)
            _, head = head_of(model)
            assert 7 in (getattr(head, "out_features", 0), getattr(head, "out_channels", 0)), name
            groups = layer_groups(model)
            names = [parameter for group in groups for parameter in group]
            assert sorted(names) == sorted(parameter for parameter, _ in model.named_parameters()), name
            assert len(groups) > 3, name
            body = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in head.parameters())
            sizes = [sum(model.get_parameter(p).numel() for p in group) for group in groups[:-1]]
            assert all(size >= body / 100 for size in sizes), name


def test_a_recipe_asks_for_synchronized_statistics_where_there_are_none() -> None:
    from food101_fast.errors import UserError

    with pytest.raises(UserError, match="--sync-batchnorm: torch supports it on CUDA only"):
        TrainStep(dataclasses.replace(SGD, sync_batchnorm=True), small_model(), CPU)


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one() -> None:
    """With every shape of a run: two sizes, frozen layers, validation; and no more graphs than these."""
    recipe = dataclasses.replace(RECIPES["demo"], compile="on", ema_decay=0.9)
    results: list[dict[str, Any]] = []
    for compiled in ("off", "on"):
        torch.manual_seed(0)
        torch.compiler.reset()
        step = TrainStep(dataclasses.replace(recipe, compile=compiled), small_model(), CPU)
        losses = []
        for phase in (Phase(32, frozen=2), Phase(48, frozen=0)):
            step.start_phase(phase)
            step.train_mode()
            losses += [step(batch(), epoch)[0].item() for epoch in (0, 1)]
        evaluate = step.compile(step.evaluated)
        with torch.inference_mode():
            losses.append(evaluate(torch.ones(4, 3, 48, 48)).sum().item())
        results.append({"losses": losses})
    assert results[0]["losses"] == pytest.approx(results[1]["losses"], rel=1e-2)
