"""A network that is ready to train: from a library, with weights from it or from a file, and a new head."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models.layers import head_of
from food101_fast.models.libraries import library_of
from food101_fast.models.weights import load_file


def build_model(name: str, weights: str, classes: int) -> nn.Module:
    """A classification model with a head for `classes` classes, on the CPU, in training mode.

    It maps images, float (N, 3, h, w), to logits, float (N, classes).

    Args:
        name: the model's name in one of `libraries.LIBRARIES`.
        weights: name of the library's weights for it, path of a file with a state dict, or `none`. A head for another
            number of classes is left out and starts with random weights; everything else in a file must fit.
        classes: outputs of the new head.

    Raises:
        UserError: there is no such model or no such weights, they can't be downloaded, or they belong to another model.
    """
    library = library_of(name)
    from_file = Path(weights).suffix in (".safetensors", ".pth", ".pt")
    model = library.network(name) if weights == "none" or from_file else library.pretrained(name, weights)
    _activate_out_of_place(model)
    _replace_head(model, classes)
    if from_file:
        load_file(model, name, Path(weights))
    return model


def _replace_head(model: nn.Module, classes: int) -> None:
    path, head = head_of(model)
    new: nn.Module
    bias = head.bias is not None
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, classes, bias)
    else:
        new = nn.Conv2d(head.in_channels, classes, head.kernel_size, bias=bias)  # type: ignore[arg-type]
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], new)


def _activate_out_of_place(model: nn.Module) -> None:
    """Keep activations from overwriting an input that their gradient needs.

    Before such an in-place operation autograd copies the input, which costs time and saves no memory: 35 copies in a
    step of MobileNetV2, for the same numbers. ReLU may stay in place, since its gradient needs only the result.

    Source: tools/autograd/derivatives.yaml of PyTorch, the entries that use `self`.
    """
    for module in model.modules():
        if isinstance(module, nn.Hardtanh | nn.Hardswish | nn.Hardsigmoid | nn.SiLU | nn.Mish):
            module.inplace = False


def check_sizes(name: str, model: nn.Module, sizes: Iterable[int]) -> None:
    """Check that a model can take images of these sizes, without computing anything.

    Args:
        name: of the model, for the error.
        model: on any device; it is not changed.
        sizes: heights and widths of square images, in pixels.

    Raises:
        UserError: it can't. A vision transformer takes one size only, and others shrink small images to nothing.
    """
    shapes = copy.deepcopy(model).to("meta").eval()
    for size in sorted(sizes):
        try:
            shapes(torch.empty(2, 3, size, size, device="meta"))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{name} can't take images of {size} pixels ({reason}); choose another --image-size or --model, and "
                "no --start-size for a model of one size"
            ) from error
