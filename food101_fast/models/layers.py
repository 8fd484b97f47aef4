"""The layers of a model: its head or heads, and groups of layers from the input to the head."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from torch import nn

from food101_fast.errors import UserError

Layer = nn.Linear | nn.Conv2d


def head_of(model: nn.Module) -> tuple[str, Layer]:
    """Name and module of the layer that computes the class scores; of several, the last one.

    Raises:
        UserError: the model has no such layer.
    """
    return heads_of(model)[-1]


def heads_of(model: nn.Module) -> list[tuple[str, Layer]]:
    """Names and modules of all layers that compute class scores, in the order of the model.

    A model of timm names them in its configuration or gives their modules, and may have several: distilled models
    average the scores of two. Of any other model it is the last linear or convolutional layer.

    Raises:
        UserError: the model has no linear or convolutional layer.
    """
    layers = _layers(model)
    if not layers:
        raise UserError(
            f"a {type(model).__name__} has no linear or convolutional layer as a head; choose another --model"
        )
    heads = _timms_heads(model) if hasattr(model, "get_classifier") else []
    return [(path, layer) for path, layer in layers if layer in heads] or layers[-1:]


def _layers(module: nn.Module) -> list[tuple[str, Layer]]:
    """Names and modules of all linear and convolutional layers in a module."""
    return [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _timms_heads(model: Any) -> list[Layer]:
    """The layers that compute class scores in a model of timm. Some models tell only one of two in either way."""
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (named,) if isinstance(named, str) else named
    heads = [layer for path, layer in _layers(model) if path in names]
    classifier = model.get_classifier()
    several = isinstance(classifier, tuple | list | nn.ModuleList)
    return heads + [_layers(one)[-1][1] for one in (classifier if several else [classifier]) if _layers(one)]


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a new layer with `classes` outputs and random weights where `head_of` finds the head."""
    path, head = head_of(model)
    new: nn.Module
    bias = head.bias is not None
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, classes, bias)
    else:
        new = nn.Conv2d(head.in_channels, classes, head.kernel_size, bias=bias)  # type: ignore[arg-type]
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], new)


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of all parameters, in groups from the input to the head, which is the last group.

    A model of timm has the groups of timm's layer decay. Those of any other model are modules: a module with more than
    half of the weights below the head is divided into its children. A group with less than a hundredth of the weights
    joins its neighbor. So the groups are the stages or blocks of an architecture.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    heads = {path for path, _ in heads_of(model)}
    own = [name for name in sizes if name.rpartition(".")[0] in heads]
    body = {name: size for name, size in sizes.items() if name not in own}
    total = sum(body.values())
    groups: list[list[str]] = []
    small: list[str] = []
    for names in _timms_groups(model, body) or _modules(body):
        names = small + names
        if sum(sizes[name] for name in names) < total / 100:
            small = names
        else:
            groups.append(names)
            small = []
    if small and groups:
        groups[-1] = groups[-1] + small
    return [*groups, own] if groups else [small + own]


def _modules(sizes: dict[str, int]) -> list[list[str]]:
    """Names of parameters, grouped by the outermost modules with at most half of all weights.

    Args:
        sizes: number of weights in each parameter, in the order of the layers.
    """
    total = sum(sizes.values())
    within: Counter[str] = Counter()
    for name, size in sizes.items():
        for prefix in _prefixes(name):
            within[prefix] += size

    def group_of(name: str) -> str:
        return next((prefix for prefix in _prefixes(name) if within[prefix] <= total / 2), name)

    return [list(names) for _, names in itertools.groupby(sizes, group_of)]


def _timms_groups(model: Any, names: dict[str, int]) -> list[list[str]] | None:
    """Names of parameters in the groups of timm's layer decay; None if the model has none."""
    if not hasattr(model, "group_matcher"):
        return None
    from timm.models import group_parameters

    numbered = group_parameters(model, model.group_matcher(coarse=False))
    groups = [[name for name in numbered[number] if name in names] for number in sorted(numbered)]
    return groups if sorted(itertools.chain(*groups)) == sorted(names) else None


def _prefixes(name: str) -> list[str]:
    """Names of the modules that contain a parameter, from the outermost one."""
    modules = name.split(".")[:-1]
    return [".".join(modules[: depth + 1]) for depth in range(len(modules))]
