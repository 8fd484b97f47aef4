"""Recipes refuse what can't be trained; the baseline's learning rate is the notebook's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from food101_fast.errors import UserError
from food101_fast.train import RECIPES, Recipe
from food101_fast.train.loop import TrainStep


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
    ],
)
def test_a_wrong_field_is_named_by_its_flag(wrong: dict[str, object]) -> None:
    flag = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(UserError, match=flag):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_the_baselines_learning_rate_curve() -> None:
    step = TrainStep(RECIPES["baseline"], nn.Linear(1, 1), torch.device("cpu"))
    curve = []
    for _ in range(RECIPES["baseline"].epochs):
        curve.append(step.scheduler.get_last_lr()[0])
        step.optimizer.step()
        step.scheduler.step()
    assert curve == pytest.approx([5e-5, 4.9e-5, 4.802e-5, 4.706e-5, 4.612e-5, 4.52e-5, 4.429e-5], rel=1e-3)
