"""The layers of a model: its head, and groups of layers from the input to the head."""

from __future__ import annotations

import itertools
from collections import Counter

from torch import nn

from food101_fast.errors import UserError


def head_of(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the layer that computes the class scores: the last linear or convolutional layer.

    Raises:
        UserError: the model has neither.
    """
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise UserError(
            f"a {type(model).__name__} has no linear or convolutional layer as a head; choose another --model"
        )
    return layers[-1]


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of all parameters, in groups from the input to the head, which is the last group.

    The groups are modules. A module with more than half of the weights below the head is divided into its children, and
    one with less than a hundredth joins its neighbor. So the groups are the stages or blocks of an architecture.
    """
    head = head_of(model)[0]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    own = [name for name in sizes if name.rpartition(".")[0] == head]
    body = [name for name in sizes if name not in own]
    total = sum(sizes[name] for name in body)
    within: Counter[str] = Counter()
    for name in body:
        for prefix in _prefixes(name):
            within[prefix] += sizes[name]

    def group_of(name: str) -> str:
        return next((prefix for prefix in _prefixes(name) if within[prefix] <= total / 2), name)

    modules = [list(names) for _, names in itertools.groupby(body, group_of)]
    groups: list[list[str]] = []
    small: list[str] = []
    for names in modules:
        names = small + names
        if sum(sizes[name] for name in names) < total / 100:
            small = names
        else:
            groups.append(names)
            small = []
    if small and groups:
        groups[-1] = groups[-1] + small
    return [*groups, own] if groups else [small + own]


def _prefixes(name: str) -> list[str]:
    """Names of the modules that contain a parameter, from the outermost one."""
    modules = name.split(".")[:-1]
    return [".".join(modules[: depth + 1]) for depth in range(len(modules))]
