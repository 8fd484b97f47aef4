"""torchvision's resize with the same pixels on every processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode, v2

from food101_fast.transforms.base import Params, memory_format


class SquareResize(v2.Resize):
    """Resize square images, antialiased, as `torchvision.transforms.v2.Resize` does.

    On the CPU uint8 images are always resized by torch's integer kernel. torchvision uses that kernel only where it is
    faster (with AVX2, and in newer versions on ARM); elsewhere it rounds floating numbers, which changes some pixels by
    1. Then evaluation, `predict` and an exported program would depend on the processor.

    Args:
        size: height and width of the result, in pixels.
        interpolation: bilinear or bicubic.
    """

    def __init__(self, size: int, interpolation: str = "bilinear") -> None:
        super().__init__(size, InterpolationMode(interpolation))

    def transform(self, inpt: Any, params: Params) -> Any:
        """Resize (N, C, S, S) to (N, C, size, size); keeps dtype and memory format."""
        plain = isinstance(inpt, Tensor) and inpt.ndim == 4 and inpt.shape[-1] == inpt.shape[-2]
        if not plain or inpt.dtype != torch.uint8 or inpt.device.type != "cpu" or inpt.shape[-1] == self.size[0]:
            return super().transform(inpt, params)
        side = self.size[0]
        out = interpolate(inpt, size=(side, side), mode=self.interpolation.value, align_corners=False, antialias=True)
        # For a single image torch does not keep the memory format.
        return out.contiguous(memory_format=memory_format(inpt))
