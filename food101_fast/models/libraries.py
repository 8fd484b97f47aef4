"""Where networks come from. `LIBRARIES` lists every library of backbones that a recipe's `model` may name.

To add a library, write a class with the methods of `Library` and add an instance of it to `LIBRARIES`. Everything else
(a new head, layer groups, weights from a file, checks of sizes) works with any network.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol, cast
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from food101_fast.errors import UserError


class Library(Protocol):
    """A library of image classifiers with pretrained weights.

    Attributes:
        catalog: for errors: the library's name, and how a user lists its models.
    """

    catalog: str

    def __contains__(self, name: object) -> bool:
        """Whether the library has a classifier of this name."""
        ...

    def network(self, name: str) -> nn.Module:
        """A network with random weights and the library's own head, on the CPU."""
        ...

    def pretrained(self, name: str, weights: str) -> nn.Module:
        """A network with the library's weights of this name.

        Raises:
            UserError: there are no such weights, or they can't be downloaded.
        """
        ...


class Torchvision:
    """The classification models of `torchvision.models`."""

    catalog = "torchvision (torchvision.models.list_models())"

    def __contains__(self, name: object) -> bool:
        return name in torchvision.models.list_models(module=torchvision.models)

    def network(self, name: str) -> nn.Module:
        """A network with random weights and without auxiliary heads."""
        return self._made(name, None)

    def pretrained(self, name: str, weights: str) -> nn.Module:
        """A network with weights of this name; `DEFAULT` is torchvision's best for the model.

        Raises:
            UserError: there are no such weights, or they can't be downloaded.
        """
        enum = torchvision.models.get_model_weights(name)
        choices = ["DEFAULT", *enum.__members__]
        if weights not in choices:
            raise UserError(
                f"{name} has no weights {weights!r}; choose from {', '.join(dict.fromkeys(choices))}, none, "
                "or the path of a .safetensors or .pth file"
            )
        try:
            return self._made(name, weights)
        except (URLError, OSError, RuntimeError) as error:
            file = Path(enum[weights].url).name
            raise UserError(
                f"the weights {weights} of {name} could not be downloaded ({error}); connect to the network, put "
                f"{file} into {torch.hub.get_dir()}/checkpoints, or pass --weights FILE or --weights none"
            ) from error

    def _made(self, name: str, weights: str | None) -> nn.Module:
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce that another version will draw initial weights in another way.
            warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
            model = cast(nn.Module, torchvision.models.get_model(name, weights=weights, progress=False))
        _remove_auxiliary_heads(model)
        return model


def _remove_auxiliary_heads(model: nn.Module) -> None:
    """GoogLeNet and Inception have further heads, for training with a loss of several terms; no recipe uses them."""
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)


LIBRARIES: tuple[Library, ...] = (Torchvision(),)
"""Every library; the first that has a model of the name is used."""


def library_of(name: str) -> Library:
    """The library that has a model.

    Raises:
        UserError: none has it.
    """
    for library in LIBRARIES:
        if name in library:
            return library
    catalogs = " or ".join(library.catalog for library in LIBRARIES)
    raise UserError(f"there is no classification model {name!r} in {catalogs}; give one of those to --model")
