"""Recipes refuse what can't be trained; what changes in the course of a run is pinned as numbers."""

from __future__ import annotations

import copy
import dataclasses
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from food101_fast.errors import UserError
from food101_fast.runs.recipe import Optimizer
from food101_fast.train import RECIPES, Recipe
from food101_fast.train.optimizer import OPTIMIZERS, build_optimizer, set_learning_rate
from food101_fast.train.schedule import Phase, frozen_at, image_size_at, lr_factor, phase_at, step_seed


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "none"},
        {"epochs": 0},
        {"batch_size": 1},
        {"image_size": 8},
        {"patience": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"lr_gamma": 1.1},
        {"start_size": 16},
        {"start_size": 192},
        {"accumulate": 0},
        {"unfreeze_epochs": -1},
        {"layer_decay": 0.0},
        {"label_smoothing": 1.0},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"weight_decay": 0.1},  # the default optimizer has none
        {"warmup_epochs": -1.0},
        {"warmup_epochs": 7.5},
        {"unfreeze_epochs": 8},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"accumulate": 2, "compile_mode": "reduce-overhead"},
        {"repeat_threshold": 0.1},  # the default does not sample
        {"repeat_threshold": 1.5, "class_balance": "sampling"},
    ],
)
def test_a_wrong_field_is_named_by_its_flag(wrong: dict[str, object]) -> None:
    flag = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(UserError, match=flag):
        Recipe(**wrong)  # type: ignore[arg-type]


@given(st.integers(2, 500), st.integers(1, 8), st.integers(1, 8))
def test_the_batch_of_all_ranks_is_divided_evenly_or_not_at_all(batch_size: int, ranks: int, accumulate: int) -> None:
    recipe = Recipe(batch_size=batch_size, accumulate=accumulate)
    if batch_size % (ranks * accumulate):
        with pytest.raises(UserError, match=rf"--batch-size {batch_size} .* a multiple of {ranks * accumulate}$"):
            recipe.batch_size_per_rank(ranks)
    else:
        assert recipe.batch_size_per_rank(ranks) * ranks == batch_size
        assert recipe.chunk_size(ranks) * accumulate * ranks == batch_size


def test_every_optimizer_of_a_recipe_can_be_made() -> None:
    assert set(OPTIMIZERS) == set(get_args(Optimizer))


def curve(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """The head's learning rate in each step, as the optimizer has it."""
    optimizer = build_optimizer(recipe, nn.Linear(1, 1))
    rates = []
    for step in range(recipe.epochs * steps_per_epoch):
        set_learning_rate(optimizer, lr_factor(recipe, step, steps_per_epoch))
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


CURVES = {
    "baseline": (2, [5e-5] * 2 + [4.9e-5] * 2 + [4.802e-5] * 2 + [4.70596e-5] * 2 + [4.6118408e-5] * 2
                 + [4.519603984e-5] * 2 + [4.42921190432e-5] * 2),
    "fast": (2, [5e-4, 1e-3, 9.504844340e-4, 8.117449009e-4, 6.112604670e-4, 3.887395330e-4, 1.882550991e-4,
                 4.951556605e-5]),
    "unfreeze": (1, [1e-3, 9.619397663e-4, 8.535533906e-4, 6.913417162e-4, 5e-4, 3.086582838e-4, 1.464466094e-4,
                     3.806023374e-5]),
    "demo": (1, [1e-3, 6.5e-4, 4.225e-4, 2.74625e-4, 1.7850625e-4, 1.160290625e-4]),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_learning_rate_curves(name: str) -> None:
    steps_per_epoch, expected = CURVES[name]
    assert curve(RECIPES[name], steps_per_epoch) == pytest.approx(expected, rel=1e-9)


def test_the_strong_recipes_learning_rate_rises_for_an_epoch_and_falls_to_nearly_nothing() -> None:
    rates = curve(RECIPES["strong"], 4)
    assert rates[:4] == pytest.approx([6e-5, 1.2e-4, 1.8e-4, 2.4e-4])
    assert rates[4] == pytest.approx(3e-4)
    assert rates[42] == pytest.approx(1.5e-4)  # half way
    assert rates[-1] == pytest.approx(1.281e-7, rel=1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_constant_learning_rate_is_constant_after_its_warmup() -> None:
    recipe = Recipe(schedule="constant", warmup_epochs=1, epochs=3, learning_rate=1.0)
    assert curve(recipe, 3) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 6)


def test_images_grow_in_steps_to_their_full_size() -> None:
    assert [image_size_at(RECIPES["fast"], epoch) for epoch in range(4)] == [96, 96, 128, 160]
    assert [image_size_at(RECIPES["baseline"], epoch) for epoch in range(3)] == [160] * 3


@given(st.integers(32, 256), st.integers(0, 128), st.integers(1, 30))
def test_sizes_never_shrink_end_whole_and_are_few(start: int, more: int, epochs: int) -> None:
    recipe = Recipe(start_size=start, image_size=start + more, epochs=epochs)
    sizes = [image_size_at(recipe, epoch) for epoch in range(epochs + 1)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == sizes[epochs - 1] == start + more
    assert len(set(sizes)) <= 2 + more // 32


@given(st.integers(0, 12), st.integers(1, 40))
def test_layers_are_unfrozen_from_the_head_down(epochs: int, groups: int) -> None:
    recipe = Recipe(unfreeze_epochs=epochs, epochs=12)
    frozen = [frozen_at(recipe, epoch, groups) for epoch in range(epochs + 2)]
    assert frozen[0] == (groups - 1 if epochs else 0)
    assert frozen == sorted(frozen, reverse=True)
    assert frozen[epochs] == 0


def test_a_phase_lasts_until_something_is_to_change() -> None:
    assert phase_at(RECIPES["fast"], 0, 5) == phase_at(RECIPES["fast"], 1, 5) == Phase(96, 0)
    assert phase_at(RECIPES["unfreeze"], 2, 9) == Phase(160, 4)


def test_every_step_and_rank_draws_its_own_numbers() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(3)}
    assert len(seeds) == 3 * 50 * 3
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


def test_weights_decay_and_biases_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    optimizer = build_optimizer(Recipe(optimizer="adamw", weight_decay=0.05), model)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.05, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.05, "3.bias": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_layers_below_the_head_learn_more_slowly(name: str) -> None:
    """As if each layer had a parameter group of its own, though there are only two groups."""
    ours = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    decay = 0.0 if name == "adam" else 0.1
    recipe = Recipe(optimizer=name, learning_rate=0.1, layer_decay=0.5, weight_decay=decay, momentum=0.9)  # type: ignore[arg-type]
    optimizer = build_optimizer(recipe, ours)
    groups = [
        {"params": [parameter], "lr": 0.1 * 0.5**depth, "weight_decay": decay if parameter.ndim > 1 else 0.0}
        for depth, layer in enumerate(reversed(theirs))
        for parameter in layer.parameters()
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    plain = kind(groups, momentum=0.9, nesterov=True) if name == "sgd" else kind(groups)
    for _ in range(4):
        inputs = torch.randn(8, 4)
        for model, steps in ((ours, optimizer), (theirs, plain)):
            model(inputs).square().sum().backward()
            steps.step()
            steps.zero_grad()
    assert len(optimizer.param_groups) <= 2
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_scaled_steps_leave_what_has_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = build_optimizer(Recipe(optimizer="adamw", weight_decay=0.1, layer_decay=0.3), model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model[2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert changed == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers_are_torchs(name: str, kind: type) -> None:
    optimizer = build_optimizer(dataclasses.replace(Recipe(), optimizer=name), nn.Linear(1, 1))  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert optimizer.defaults["fused"]
    assert name != "sgd" or optimizer.defaults["nesterov"]
