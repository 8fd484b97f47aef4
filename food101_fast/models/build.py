"""A network that is ready to train: from a library, with weights from it or from a file, and a new head."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models.backbone import Backbone
from food101_fast.models.libraries import library_of
from food101_fast.models.locations import is_location
from food101_fast.models.weights import load_file
from food101_fast.progress import say, warn

# Sizes that an error may advise: multiples of the patch size, or of what most networks reduce an image by.
_STEP, _SMALLEST_STEP = 32, 8
_TRIED = 3


def build_model(model: str | Backbone, weights: str, classes: int) -> nn.Module:
    """A classification model with a head for `classes` classes, on the CPU, in training mode.

    It maps images, float (N, 3, h, w), to logits, float (N, classes).

    Args:
        model: the backbone, or its name in one of `libraries.LIBRARIES`.
        weights: name of the library's weights for it, `none`, or the path or URL of a file, whose outcome is printed.
            A head for another number of classes is left out and starts with random weights; see `load_file`.
        classes: outputs of the head.

    Raises:
        UserError: there is no such model or no such weights, they can't be downloaded, or they belong to another model.
    """
    backbone = Backbone(name=model) if isinstance(model, str) else model
    from_file = weights != "none" and is_location(weights)
    network = library_of(backbone.name).network(backbone, "none" if from_file else weights, classes)
    _activate_out_of_place(network)
    if from_file:
        loaded = load_file(network, backbone.name, weights)
        say(loaded.line)
        if loaded.warning is not None:
            warn(loaded.warning)
    return network


def _activate_out_of_place(model: nn.Module) -> None:
    """Keep activations from overwriting an input that their gradient needs.

    Before such an in-place operation autograd copies the input, which costs time and saves no memory: 35 copies in a
    step of MobileNetV2, for the same numbers. ReLU may stay in place, since its gradient needs only the result.

    Source: tools/autograd/derivatives.yaml of PyTorch, the entries that use `self`.
    """
    for module in model.modules():
        if isinstance(module, nn.Hardtanh | nn.Hardswish | nn.Hardsigmoid | nn.SiLU | nn.Mish):
            module.inplace = False


def check_sizes(backbone: Backbone, model: nn.Module, sizes: Iterable[int], *, native: int) -> None:
    """Check that a model can take images of these sizes, without computing anything.

    Args:
        backbone: of the model.
        model: on any device; it is not changed.
        sizes: heights and widths of square images, in pixels.
        native: the backbone's own size, for the error.

    Raises:
        UserError: it can't. A vision transformer is built for one size, and others shrink small images to nothing.
    """
    shapes = copy.deepcopy(model).to("meta").eval()
    for size in sorted(sizes):
        reason = _obstacle(shapes, size)
        if reason is not None:
            others = _near(backbone, model, size, native)
            also = f", and it also takes {' or '.join(map(str, others))}" if others else ""
            raise UserError(
                f"{backbone.name} can't take images of {size} pixels ({reason}); its own size is {native}{also}: "
                "choose another --image-size or --model, and no --start-size for a model of one size"
            )


def _obstacle(shapes: nn.Module, size: int) -> str | None:
    """Why a model on the meta device, in evaluation mode, can't take images of this size; None if it can."""
    try:
        shapes(torch.empty(2, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def _near(backbone: Backbone, model: nn.Module, size: int, native: int) -> list[int]:
    """The nearest sizes below and above `size` that the backbone can be built for, if there are some."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    step = patch[0] if isinstance(patch, tuple) and patch[0] >= _SMALLEST_STEP else _STEP
    first = size // step
    below, above = range(first, max(first - _TRIED, 0), -1), range(first + 1, first + 1 + _TRIED)
    found = (
        next((n * step for n in side if n * step != size and _takes(backbone, n * step)), None)
        for side in (below, above)
    )
    return [one for one in found if one is not None and one != native]


def _takes(backbone: Backbone, size: int) -> bool:
    """Whether the backbone, built for images of this size, can take them."""
    try:
        with torch.device("meta"):
            model = library_of(backbone.name).network(replace(backbone, image_size=size), "none", 2).eval()
    except (RuntimeError, NotImplementedError, UserError):  # some can't be built without values
        return False
    return _obstacle(model, size) is None
