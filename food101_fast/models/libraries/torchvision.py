"""The classification models of torchvision, with heads for any number of classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
import torchvision
from torch import nn
from torchvision.ops import StochasticDepth
from torchvision.transforms import InterpolationMode

from food101_fast.errors import UserError
from food101_fast.models.backbone import Backbone
from food101_fast.models.layers import replace_head
from food101_fast.transforms import InputSpec
from food101_fast.transforms.normalize import IMAGENET


class Torchvision:
    """The classification models of `torchvision.models`."""

    catalog = "torchvision (torchvision.models.list_models())"

    def __contains__(self, name: object) -> bool:
        return name in torchvision.models.list_models(module=torchvision.models)

    def check(self, name: str) -> None:
        """Nothing to check: torchvision is always there, and `__contains__` knows all of its models."""

    def stored_name(self, name: str) -> str:
        """The name itself."""
        return name

    def inputs(self, name: str, weights: str) -> InputSpec:
        """The images that weights were trained with, as their own `transforms()` make them.

        For names that are not of the model's weights, the default weights decide; a model without any has ImageNet's.
        """
        enum = torchvision.models.get_model_weights(name).__members__
        member = enum.get(weights) or enum.get("DEFAULT")
        if member is None:
            return IMAGENET
        preset = member.transforms()
        bicubic = preset.interpolation == InterpolationMode.BICUBIC
        return InputSpec(
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation="bicubic" if bicubic else "bilinear",
            size=preset.crop_size[0],
        )

    def network(self, backbone: Backbone, weights: str, classes: int) -> nn.Module:
        """A network without auxiliary heads; the weights `DEFAULT` are torchvision's best for the model.

        Raises:
            UserError: there are no such weights, they can't be downloaded, or the network has no stochastic depth.
        """
        model = self._made(backbone, None) if weights == "none" else self._pretrained(backbone, weights)
        replace_head(model, classes)
        return model

    def _pretrained(self, backbone: Backbone, weights: str) -> nn.Module:
        enum = torchvision.models.get_model_weights(backbone.name)
        choices = ["DEFAULT", *enum.__members__]
        if weights not in choices:
            raise UserError(
                f"{backbone.name} has no weights {weights!r}; choose from {', '.join(dict.fromkeys(choices))}, none, "
                "or the path or URL of a file"
            )
        try:
            return self._made(backbone, weights)
        except (URLError, OSError, RuntimeError) as error:
            file = Path(enum[weights].url).name
            raise UserError(
                f"the weights {weights} of {backbone.name} could not be downloaded ({error}); connect to the network, "
                f"put {file} into {torch.hub.get_dir()}/checkpoints, or pass --weights FILE or --weights none"
            ) from error

    def _made(self, backbone: Backbone, weights: str | None) -> nn.Module:
        name, rate = backbone.name, backbone.drop_path
        # EfficientNets take the rate in the constructor. Others set it themselves, or fail on it.
        takes_rate = rate is not None and name.startswith("efficientnet")
        arguments: dict[str, Any] = {"stochastic_depth_prob": rate} if takes_rate else {}
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce that another version will draw initial weights in another way.
            warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
            made = torchvision.models.get_model(name, weights=weights, progress=False, **arguments)
        model = cast(nn.Module, made)
        if rate is not None and not takes_rate:
            _set_stochastic_depth(model, name, rate)
        _remove_auxiliary_heads(model)
        return model


def _set_stochastic_depth(model: nn.Module, name: str, rate: float) -> None:
    """Scale the rates of all blocks so that the last one has this rate, as the constructors compute them.

    Source: torchvision's convnext.py, maxvit.py and swin_transformer.py; all rise linearly from 0 to their argument.

    Raises:
        UserError: the model has no stochastic depth.
    """
    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not layers:
        raise UserError(f"{name} has no stochastic depth; leave --drop-path out, or choose another --model")
    highest = layers[-1].p
    for layer in layers:
        layer.p = layer.p / highest * rate


def _remove_auxiliary_heads(model: nn.Module) -> None:
    """GoogLeNet and Inception have further heads, for training with a loss of several terms; no recipe uses them."""
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)
