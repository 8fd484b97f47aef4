"""From uint8 pixels to the normalized floating numbers that a backbone expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from food101_fast.transforms.base import Params

# Of ImageNet's training images; all pretrained classification weights of torchvision expect them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The images that a backbone was pretrained with, and so expects. The defaults are those of torchvision."""

    mean: tuple[float, float, float] = MEAN
    """Of each channel, red first, in pixels between 0 and 1; is subtracted."""
    std: tuple[float, float, float] = STD
    """Of each channel; the difference is divided by it."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, with antialiasing."""
    size: int = 224
    """Height and width, in pixels."""


IMAGENET = InputSpec()
"""What all pretrained classification weights of torchvision expect, but for interpolation and size."""


class ToNormalized(v2.Transform):
    """Convert uint8 to normalized floating numbers: `v2.ToDtype(dtype, scale=True)` and `v2.Normalize` in one.

    Unlike torchvision's, it keeps mean and standard deviation on the device, without a copy from the host per batch.

    Args:
        dtype: of the result, floating.
        spec: mean and standard deviation.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        spec = spec or IMAGENET
        self.register_buffer("_mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(spec.std)[:, None, None], persistent=False)

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Convert uint8 (..., 3, H, W) to `dtype`; keeps shape and memory format."""
        if self._mean.device != inpt.device:
            self.to(inpt.device)
        return inpt.to(torch.float32).mul_(1.0 / 255.0).sub_(self._mean).div_(self._std).to(self.dtype)
