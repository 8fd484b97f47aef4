"""Weights in the names and shapes of another implementation, changed by the model's own library to fit."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

# What timm's modules call the function that `timm.create_model(pretrained=True)` applies to a file.
_FILTERS = ("checkpoint_filter_fn", "pretrained_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")


def conversions(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors as the model's library changes them, and by what. Without a library that does so, nothing.

    timm's functions know the original names of ResNet, ViT, DINO, MAE, BEiT, Swin and others, and resize position
    embeddings; torchvision's resizes those of its vision transformer.

    Args:
        model: of any library.
        tensors: a state dict, without prefixes.
    """
    if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in tensors:
        changed = _changed(interpolate_embeddings, model.image_size, model.patch_size, OrderedDict(tensors))
        if changed is not None:
            yield "position embeddings resized", changed
    filter_of = _timm_filter(model)
    if filter_of is not None:
        changed = _changed(filter_of, dict(tensors), model)
        if changed is not None:
            yield "converted by timm", changed


def _timm_filter(model: nn.Module) -> Callable[..., Any] | None:
    """The function of the module that defines a model of timm."""
    if not type(model).__module__.startswith("timm."):
        return None
    module = sys.modules[type(model).__module__]
    return next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None)


def _changed(change: Callable[..., Any], *arguments: Any) -> dict[str, Tensor] | None:
    """The result of a library's function; None if it does not know such weights."""
    try:
        result = change(*arguments)
    except Exception:  # weights of another model: each function fails in its own way
        return None
    if not isinstance(result, dict):
        return None
    return {name: tensor for name, tensor in result.items() if isinstance(tensor, Tensor)}
