"""Layers that are frozen in the whole run: what they keep, what they cost, and that a run with them is exact."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models import build_model, layer_groups
from food101_fast.runs.checkpoint import load_checkpoint
from food101_fast.runs.recipe import Freeze, Optimizer
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train.batchnorm import refuse_single_images
from food101_fast.train.schedule import frozen_at, phase_at
from food101_fast.train.step import TrainStep
from tests.train.launch import Job, start
from tests.train.test_resume import EVERY, STEPS, difference, state_of
from tests.train.test_step import CPU, batch, changed, weights

RECIPE = Recipe(
    model="mnasnet0_5", weights="none", image_size=32, preset="strong", epochs=2, batch_size=6, optimizer="sgd",
    learning_rate=1e-2, weight_decay=0.01, layer_decay=0.8, ema_decay=0.9, clip_norm=1.0, freeze=2,
)  # fmt: skip


def below(model: nn.Module, freeze: Freeze) -> set[str]:
    """Names of the parameters that are frozen."""
    groups = layer_groups(model)
    number = len(groups) - 1 if freeze == "backbone" else int(freeze or 0)
    return {name for group in groups[:number] for name in group}


@pytest.mark.parametrize("freeze", ["backbone", 1, 4])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_layers_keep_all_they_have_and_cost_nothing(freeze: Freeze, optimizer: Optimizer) -> None:
    decay = 0.0 if optimizer == "adam" else 0.5
    recipe = dataclasses.replace(RECIPE, freeze=freeze, optimizer=optimizer, weight_decay=decay)
    step = TrainStep(recipe, build_model("mnasnet0_5", "none", 3), CPU)
    step.start_phase(phase_at(recipe, 0, len(step.layers)))
    step.train_mode()
    frozen = below(step.model, freeze)
    modules = {name.rpartition(".")[0] for name in frozen}
    before = weights(step)
    for number in range(2):
        step.prepare(number, 1.0)
        step(batch(), 0)
    still = {name for name in before if name.removeprefix("average.").rpartition(".")[0] in modules}
    assert frozen
    assert changed(before, weights(step)) == set(before) - still
    parameters = dict(step.model.named_parameters())
    owned = {id(parameter) for group in step.optimizer.param_groups for parameter in group["params"]}
    trained = {name for name, parameter in parameters.items() if id(parameter) in owned}
    assert trained == set(parameters) - frozen
    assert {id(parameter) for parameter in step.optimizer.state} == owned
    assert all(parameters[name].grad is None for name in frozen)
    norms = [module for module in step.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert any(module.training for module in norms) == (freeze != "backbone")


def test_frozen_statistics_are_those_of_evaluation() -> None:
    """A step's loss is that of the model in evaluation mode; weights and biases of BatchNorm still train."""
    recipe = dataclasses.replace(
        RECIPE, freeze=None, freeze_batchnorm=True, weights="elsewhere", preset="baseline", ema_decay=None,
        batch_size=2, accumulate=2, optimizer="adam", weight_decay=0.0,
    )  # fmt: skip
    model = build_model("mnasnet0_5", "none", 3)
    model.train()(torch.randn(16, 3, 64, 64))  # statistics of its own
    dropout, _ = model.get_submodule("classifier").children()
    dropout.p = 0.0  # type: ignore[assignment]
    refuse_single_images(model, recipe, 1)  # images one by one are no problem then
    step = TrainStep(dataclasses.replace(recipe, accumulate=1), model, CPU)
    step.train_mode()
    images, labels = step.augment(batch(), epoch=0)
    expected = nn.functional.cross_entropy(copy.deepcopy(step.model).eval()(images), labels)
    before = weights(step)
    step.prepare(0, 1.0)
    loss, _ = step.update(images, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    kept = set(before) - changed(before, weights(step))
    assert kept == {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_frozen_statistics_need_weights() -> None:
    with pytest.raises(
        UserError, match="--freeze-batchnorm keeps the statistics of pretrained weights; give --weights"
    ):
        Recipe(weights="none", freeze_batchnorm=True)


def test_frozen_layers_keep_no_activations_for_the_backward_pass() -> None:
    saved = {}
    for freeze in (None, "backbone"):
        recipe = dataclasses.replace(RECIPE, freeze=freeze)
        step = TrainStep(recipe, build_model("mnasnet0_5", "none", 3), CPU)
        step.train_mode()
        images, labels = step.augment(batch(), 0)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step.backward(images, labels)
        saved[freeze] = sum(sizes)
    assert saved["backbone"] < saved[None] / 20


def test_the_head_learns_as_if_it_were_the_whole_model() -> None:
    """Against the same layers before a head that is trained alone; the average is one of the head's weights."""
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(8, 3))
    recipe = dataclasses.replace(RECIPE, model="one of our own", freeze="backbone", preset="baseline", ema_decay=0.5)
    head, step = copy.deepcopy(model[1]), TrainStep(recipe, model, CPU)
    step.train_mode()
    groups: list[dict[str, Any]] = [{"params": [head.weight], "weight_decay": 0.01}, {"params": [head.bias]}]
    optimizer = torch.optim.SGD(groups, 1e-2, momentum=0.9, nesterov=True)
    frozen = copy.deepcopy(body).eval()
    for number in range(3):
        images, labels = step.augment(batch(), 0)
        step.prepare(number, 1.0)
        step.update(images, labels)
        optimizer.zero_grad()
        with torch.no_grad():
            features = frozen(images)
        nn.functional.cross_entropy(head(features), labels).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(step.model.get_submodule("1").weight, head.weight, rtol=1e-5, atol=1e-6)
    assert step.average is not None
    for one, other in zip(step.average.model.get_submodule("0").parameters(), body.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_run_with_frozen_layers_that_was_killed_ends_with_the_same_bits(tiny_path: Path, tmp_path: Path) -> None:
    job = Job(shards=tiny_path, run=tmp_path / "whole", recipe=RECIPE)
    assert start(job) == [0]
    killed = dataclasses.replace(job, run=tmp_path / "run", kill_before_step=STEPS + 5, options=EVERY)
    assert start(killed) == [-signal.SIGKILL]
    assert start(dataclasses.replace(job, run=tmp_path / "run", resume=True, options=EVERY)) == [0]
    assert difference(state_of(tmp_path / "run"), state_of(tmp_path / "whole")) == []


def test_ranks_train_the_same_layers(tiny_path: Path, tmp_path: Path) -> None:
    """And change nothing but rounding; the frozen ones are those that the run began with."""
    recipe = dataclasses.replace(RECIPE, freeze=1, epochs=1, batch_size=8, layer_decay=1.0, ema_decay=None)
    results = []
    for ranks in (1, 2):
        job = Job(shards=tiny_path, run=tmp_path / str(ranks), recipe=recipe, plain=True)
        assert start(job, ranks) == [0] * ranks
        results.append(load_checkpoint(job.run, "last")[0])
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6)
    assert torch.equal(results[0]["0.weight"], results[1]["0.weight"])


@pytest.mark.parametrize("freeze", ["backbone", 3])
def test_every_epoch_freezes_the_same(freeze: Freeze) -> None:
    recipe = Recipe(freeze=freeze)
    assert {frozen_at(recipe, epoch, 9) for epoch in range(8)} == {8 if freeze == "backbone" else 3}
    assert frozen_at(recipe, 0, 4) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--freeze", "99"), "--freeze 99: shufflenet_v2_x0_5 has"),
        (("--freeze", "0"), "--freeze 0 should be at least 1, or backbone"),
        (("--freeze", "2", "--unfreeze-epochs", "1"), "leave --freeze out, or give --unfreeze-epochs 0"),
    ],
)
def test_what_can_not_be_frozen_is_one_sentence(
    flags: tuple[str, ...],
    message: str,
    tiny_path: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    recipe = ("--recipe", "demo", "--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8")
    code, _, err = command("train", "--shards", str(tiny_path), "--run", str(tmp_path / "run"), *recipe, *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_the_command_freezes_the_backbone(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], tiny_shards: ShardSet
) -> None:
    recipe = ("--recipe", "demo", "--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8")
    run = tmp_path / "run"
    code, _, err = command(
        "train", "--shards", str(tiny_path), "--run", str(run), *recipe, "--freeze", "backbone", "--epochs", "1"
    )
    assert code == 0, err
    rows = train(tiny_shards, run, Recipe(**vars(_stored(run)) | {"epochs": 2}), device="cpu", resume=True).metrics
    assert len(rows) == 2
    assert math.isfinite(rows[1].train_loss)
    torch.manual_seed(0)
    first, (last, _) = build_model("shufflenet_v2_x0_5", "none", 3).state_dict(), load_checkpoint(run, "last")
    assert {name for name in first if not torch.equal(first[name], last[name])} == {"fc.weight", "fc.bias"}
    with pytest.raises(UserError, match=r"--freeze None \(it was trained with backbone\)"):
        train(tiny_shards, run, Recipe(**vars(_stored(run)) | {"freeze": None}), device="cpu", resume=True)


def _stored(run: Path) -> Recipe:
    from food101_fast.runs.run import read_run

    return read_run(run).recipe
