"""Models by name, weights from torchvision, a file or nowhere, and a new head for the classes at hand."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from urllib.error import URLError

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from food101_fast.errors import UserError


def build_model(name: str, weights: str, classes: int) -> nn.Module:
    """A torchvision classification model with a head for `classes` classes.

    Args:
        name: the model's name in torchvision.models.
        weights: name of torchvision weights for it, path of a file with a state dict, or `none`. A head for another
            number
            of classes is left out and starts anew; everything else in a file must fit.
        classes: outputs of the new head.

    Raises:
        UserError: there is no such model or no such weights, they can't be downloaded, or they belong to another model.
    """
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(f"torchvision has no classification model {name!r}; see torchvision.models.list_models()")
    from_file = Path(weights).suffix in (".safetensors", ".pth", ".pt")
    model: nn.Module
    if weights == "none" or from_file:
        model = torchvision.models.get_model(name, weights=None)
    else:
        model = _pretrained(name, weights)
    _replace_head(model, name, classes)
    if from_file:
        _load_file(model, name, Path(weights))
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


def _head(model: nn.Module, name: str) -> tuple[str, nn.Linear]:
    """The last linear layer, which in torchvision's classification models makes the class scores."""
    linear = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"{name} does not end in a linear layer, so its head can't be replaced; choose another --model")
    return linear[-1]


def _replace_head(model: nn.Module, name: str, classes: int) -> None:
    path, head = _head(model, name)
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], nn.Linear(head.in_features, classes, bias=head.bias is not None))


def _load_file(model: nn.Module, name: str, path: Path) -> None:
    state = read_weights(path)
    own = model.state_dict()
    head, _ = _head(model, name)
    for key in (f"{head}.weight", f"{head}.bias"):
        if key in state and key in own and state[key].shape != own[key].shape:
            state[key] = own[key]
    problems = [f"{key} is missing" for key in own.keys() - state.keys()]
    problems += [f"{key} is unknown" for key in state.keys() - own.keys()]
    problems += [
        f"{key} has the shape {tuple(state[key].shape)} and not {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if problems:
        raise UserError(f"the weights in {path} are not of a {name} ({min(problems)}); give the model they belong to")
    model.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in a .pth file; nothing in it is ever executed.

    Raises:
        UserError: the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}; give a path that exists, torchvision's name, or none")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises its own kinds, and torch's run over many lines
        raise UserError(
            f"the weights in {path} cannot be read ({type(error).__name__}); download them again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict; save model.state_dict() into it")
    return state
