"""Where networks come from. `LIBRARIES` lists every library of backbones that a recipe's `model` may name.

To add a library, write a class with the methods of `Library` and add an instance of it to `LIBRARIES`. Everything else
(layer groups, weights from a file, checks of sizes, normalization) works with any network.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from food101_fast.errors import UserError
from food101_fast.models.backbone import Backbone
from food101_fast.models.libraries.timm import Timm
from food101_fast.models.libraries.torchvision import Torchvision
from food101_fast.transforms import InputSpec


class Library(Protocol):
    """A library of image classifiers with pretrained weights.

    Attributes:
        catalog: for errors: the library's name, and how a user lists its models.
    """

    catalog: str

    def __contains__(self, name: object) -> bool:
        """Whether a model of this name is the library's, if there is one."""
        ...

    def check(self, name: str) -> None:
        """Check that the library can build a model, without building it and without a network connection.

        Raises:
            UserError: the library is not installed, or has no such model.
        """
        ...

    def stored_name(self, name: str) -> str:
        """A name of the same architecture that can be built without a network connection; a run stores it.

        Raises:
            UserError: the architecture is not known and can't be downloaded.
        """
        ...

    def inputs(self, name: str, weights: str) -> InputSpec:
        """The images that a model expects.

        Args:
            name: of the model.
            weights: name of its weights; for `none`, and for a file, the model's default weights decide.

        Raises:
            UserError: there are no such weights, or what they expect can't be downloaded.
        """
        ...

    def network(self, backbone: Backbone, weights: str, classes: int) -> nn.Module:
        """A network with a head for `classes` classes, on torch's default device.

        Args:
            backbone: what to build.
            weights: name of the library's weights, or `none` for random ones.
            classes: outputs of the head. If the weights have a head for another number, it starts with random weights.

        Raises:
            UserError: there are no such weights, they can't be downloaded, or the network has no stochastic depth.
        """
        ...


LIBRARIES: tuple[Library, ...] = (Torchvision(), Timm())
"""Every library; the first that has a model of the name is used."""


def library_of(name: str) -> Library:
    """The library that has a model.

    Raises:
        UserError: none has it, or the library is not installed.
    """
    for library in LIBRARIES:
        if name in library:
            library.check(name)
            return library
    catalogs = " or ".join(library.catalog for library in LIBRARIES)
    raise UserError(f"there is no classification model {name!r} in {catalogs}; give one of those to --model")


def inputs_of(name: str, weights: str) -> InputSpec:
    """The images that a model expects: normalization, interpolation and native size; see `Library.inputs`.

    Raises:
        UserError: there is no such model or no such weights, or what they expect can't be downloaded.
    """
    return library_of(name).inputs(name, weights)
