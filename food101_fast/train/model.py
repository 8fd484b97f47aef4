"""Models by name, weights from torchvision, a file or nowhere, and a new head for the classes at hand."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
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


def head_of(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of what makes the class scores: the last linear or convolutional layer.

    Raises:
        UserError: the model has neither.
    """
    layers = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise UserError(f"a {type(model).__name__} has no linear or convolutional layer to make class scores")
    return layers[-1]


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


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of all parameters, in groups from the input to the head, which is the last group.

    The groups are modules. One with more than half of the weights below the head is divided into its parts, and one
    with less than a hundredth joins its neighbour; so they come out as an architecture's stages or blocks.
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

    parts = [list(names) for _, names in itertools.groupby(body, group_of)]
    groups: list[list[str]] = []
    small: list[str] = []
    for names in parts:
        names = small + names
        if sum(sizes[name] for name in names) < total / 100:
            small = names
        else:
            groups.append(names)
            small = []
    if small and groups:
        groups[-1] = groups[-1] + small
    return [*groups, own] if groups else [small + own]


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


def _prefixes(name: str) -> list[str]:
    """The modules that a parameter is in, from the outermost one."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def _load_file(model: nn.Module, name: str, path: Path) -> None:
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
        raise UserError(f"the weights in {path} are not of a {name} ({min(problems)}); give the model they belong to")
    load_weights(model, state)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a state dict that fits into the model.

    A file of weights has no versions of modules beside them; MNASNet asks for one, and gets the model's own.
    """
    state = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
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
            f"the weights in {path} cannot be read ({type(error).__name__}): the file is cut off, damaged or no file "
            "of weights; give another"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict; save model.state_dict() into it")
    return state
