"""A model by its name: weights from torchvision, a file or nowhere, and a new head for the classes at hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import cast
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models.layers import head_of
from food101_fast.models.weights import load_file


def build_model(name: str, weights: str, classes: int) -> nn.Module:
    """A torchvision classification model with a head for `classes` classes.

    Args:
        name: the model's name in torchvision.models.
        weights: name of torchvision weights for it, path of a file with a state dict, or `none`. A head for another
            number of classes is left out and starts anew; everything else in a file must fit.
        classes: outputs of the new head.

    Raises:
        UserError: there is no such model or no such weights, they can't be downloaded, or they belong to another model.
    """
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(f"torchvision has no classification model {name!r}; see torchvision.models.list_models()")
    from_file = Path(weights).suffix in (".safetensors", ".pth", ".pt")
    model: nn.Module
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce that another version will draw initial weights in another way.
        warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
        if weights == "none" or from_file:
            model = torchvision.models.get_model(name, weights=None)
        else:
            model = _pretrained(name, weights)
    _remove_auxiliary_heads(model)
    _activate_out_of_place(model)
    _replace_head(model, classes)
    if from_file:
        load_file(model, name, Path(weights))
    return model


def _pretrained(name: str, weights: str) -> nn.Module:
    enum = torchvision.models.get_model_weights(name)
    choices = ["DEFAULT", *enum.__members__]
    if weights not in choices:
        raise UserError(
            f"{name} has no weights {weights!r}; choose from {', '.join(dict.fromkeys(choices))}, none, "
            "or the path of a .safetensors or .pth file"
        )
    try:
        return cast(nn.Module, torchvision.models.get_model(name, weights=weights, progress=False))
    except (URLError, OSError, RuntimeError) as error:
        file = Path(enum[weights].url).name
        raise UserError(
            f"the weights {weights} of {name} could not be downloaded ({error}); connect to the network, put {file} "
            f"into {torch.hub.get_dir()}/checkpoints, or pass --weights FILE or --weights none"
        ) from error


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


def _remove_auxiliary_heads(model: nn.Module) -> None:
    """GoogLeNet and Inception have further heads, for training with a loss of several terms; no recipe uses them."""
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)


def _activate_out_of_place(model: nn.Module) -> None:
    """Keep activations from overwriting an input that their gradient needs.

    Before such an operation autograd copies the input, so that in place is one pass over memory more and saves nothing:
    35 copies in a step of MobileNetV2, for the same numbers. ReLU is not among them: its gradient needs the result.

    Source: tools/autograd/derivatives.yaml of PyTorch, the entries that use `self`.
    """
    for module in model.modules():
        if isinstance(module, nn.Hardtanh | nn.Hardswish | nn.Hardsigmoid | nn.SiLU | nn.Mish):
            module.inplace = False


def check_sizes(name: str, model: nn.Module, sizes: Iterable[int]) -> None:
    """Try whether a model can take images of these sizes, without computing anything.

    Raises:
        UserError: it can't: a vision transformer takes one size only, and others shrink small images to nothing.
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
