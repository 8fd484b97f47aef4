"""Reads weights from files and loads them into a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from food101_fast.errors import UserError
from food101_fast.models.layers import head_of


def load_file(model: nn.Module, name: str, path: Path) -> None:
    """Copy the weights in a file into a model. A head with another number of classes is left out.

    Args:
        model: with its new head.
        name: of the model, for errors.
        path: of a .safetensors or .pth file with a state dict.

    Raises:
        UserError: the file can't be read, or its weights do not fit.
    """
    state = read_weights(path)
    own = model.state_dict()
    head, _ = head_of(model)
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
        raise UserError(f"the weights in {path} are not of a {name} ({min(problems)}); give their model to --model")
    load_weights(model, state)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a state dict that fits into the model.

    A file of weights has no versions of its modules. MNASNet needs one, and gets the model's own.
    """
    state = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or .pth file. Reading never executes code from the file.

    Raises:
        UserError: the file is missing or damaged, or contains something else.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}; give a path that exists, torchvision's name, or none")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises its own kinds, and torch's run over many lines
        raise UserError(
            f"the weights in {path} cannot be read ({type(error).__name__}): the file is incomplete, damaged or not a "
            "file of weights; give another one"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} does not contain a state dict; save model.state_dict() into it")
    return state
