"""The optimiser of a recipe: fused, with a learning rate for each layer group."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from food101_fast.train.model import layer_groups
from food101_fast.train.recipes import Recipe


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD with Nesterov momentum over all weights of `model`, in their fused versions.

    Each parameter group has an `initial_lr`, which `set_learning_rate` multiplies.
    """
    groups = _parameter_groups(recipe, model)
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=True, fused=True)
        # torch makes these in the first step, without writing to them if that step is left out, and can't make those of
        # layers that are unfrozen later.
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters that share a learning rate and a weight decay, together."""
    layers = layer_groups(model)
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for depth, names in enumerate(reversed(layers)):
        rate = recipe.learning_rate * recipe.layer_decay**depth
        for name in names:
            decay = recipe.weight_decay if parameters[name].ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameters[name])
    return [
        {"params": members, "initial_lr": rate, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
