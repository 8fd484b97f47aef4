"""From uint8 images of any size to probabilities, in operations that torch.export and ONNX have.

It contains everything that `predict` does after decoding, with the same rounding: Pillow's resize to the stored size,
as in `prepare`, and torchvision's resize of evaluation. Both compute in integers, which float64 represents exactly.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from food101_fast.images import Rules
from food101_fast.transforms import EvalSpec

# Fraction bits of the weights in Pillow's resize of 8-bit images: PRECISION_BITS in its src/libImaging/Resample.c.
_PILLOW_BITS = 22


class Program(nn.Module):
    """A model together with resizing, cropping and normalizing before it, and softmax after it.

    Args:
        model: gives logits (N, classes) for normalized images.
        rules: how an image becomes one as in the shards.
        spec: how such an image is resized and cropped.
        temperature: that logits are divided by.
    """

    _resize: Tensor

    def __init__(self, model: nn.Module, *, rules: Rules, spec: EvalSpec, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature
        self._fit = rules.fit
        self._stored_size = rules.size
        _, self._crop, self._normalize = spec.preset().transforms
        whole = torch.tensor(rules.size, dtype=torch.float64)
        bicubic = spec.inputs.interpolation == "bicubic"
        weights = _weights(torch.zeros_like(whole), whole, rules.size, spec.resize, bicubic=bicubic)
        self._resize_bits = _torchvision_bits(float(weights.max()))
        # Of negative weights, too, halves are rounded away from 0.
        integers = weights.sign() * _as_integers(weights.abs(), self._resize_bits)
        self.register_buffer("_resize", integers, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of a batch.

        Args:
            images: uint8 (N, 3, H, W), RGB, upright; any N, H and W of at least 1.

        Returns:
            float32 (N, classes); rows add up to 1.
        """
        stored = self._fitted(images)
        resized = _resample(stored, self._resize, self._resize, self._resize_bits)
        logits = cast(Tensor, self.model(self._normalize(self._crop(resized))))
        if self._temperature != 1.0:
            logits = logits / self._temperature
        return logits.softmax(dim=1)

    def _fitted(self, images: Tensor) -> Tensor:
        """Images as `images.clean` resizes them: whole numbers as float64 (N, 3, stored, stored)."""
        rows, columns = images.shape[2], images.shape[3]
        height, width = (
            torch.scalar_tensor(rows, dtype=torch.float64),
            torch.scalar_tensor(columns, dtype=torch.float64),
        )
        top, left = torch.zeros_like(height), torch.zeros_like(width)
        if self._fit == "crop":
            side = torch.minimum(height, width)
            top, left, height, width = (height - side) / 2, (width - side) / 2, side, side
        vertical = _as_integers(_weights(top, height, rows, self._stored_size), _PILLOW_BITS)
        horizontal = _as_integers(_weights(left, width, columns, self._stored_size), _PILLOW_BITS)
        return _resample(images.double(), vertical, horizontal, _PILLOW_BITS)


def _weights(start: Tensor, length: Tensor, size: int, out: int, *, bicubic: bool = False) -> Tensor:
    """Weights of `size` input pixels in each of `out` output pixels: an antialiased filter.

    Source: `precompute_coeffs` in Pillow's src/libImaging/Resample.c, with its order of operations; torch's
    antialiased resize of uint8 on the CPU follows it.

    Args:
        start: float64 (), start of the range that is resized, in input pixels.
        length: float64 (), length of that range, in input pixels.
        size: input pixels.
        out: output pixels.
        bicubic: whether the filter is the cubic one of Keys (1981) with a = -0.5, and not a triangle (bilinear).

    Returns:
        float64 (out, size); rows add up to 1.
    """
    scale = length / out
    stretch = torch.clamp(scale, min=1.0)
    support = 2 * stretch if bicubic else stretch
    center = (start + (torch.arange(out, dtype=torch.float64) + 0.5) * scale)[:, None]
    pixel = torch.arange(size, dtype=torch.float64)
    first = torch.clamp(torch.floor(center - support + 0.5), min=0.0)
    end = torch.floor(center + support + 0.5)
    distance = torch.abs((pixel - center + 0.5) * (1.0 / stretch))
    weights = _cubic(distance) if bicubic else torch.clamp(1.0 - distance, min=0.0)
    weights = weights * (pixel >= first).double() * (pixel < end).double()
    return weights * (1.0 / weights.sum(dim=1, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    """The cubic filter with a = -0.5 at distances of at least 0, computed as by `aa_filter` in torch's UpSample.h."""
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _torchvision_bits(largest: float) -> int:
    """Fraction bits of the weights in torch's antialiased resize of uint8 on the CPU: as many as fit into 16 bits.

    Source: `_compute_index_ranges_int16_weights` in torch's aten/src/ATen/native/cpu/UpSampleKernel.cpp.
    """
    return next((bits for bits in range(_PILLOW_BITS) if int(0.5 + largest * 2 ** (bits + 1)) >= 2**15), _PILLOW_BITS)


def _as_integers(weights: Tensor, bits: int) -> Tensor:
    return torch.floor(weights * 2.0**bits + 0.5)


def _resample(images: Tensor, vertical: Tensor, horizontal: Tensor, bits: int) -> Tensor:
    """Resize along the width and then the height, each rounded to whole numbers from 0 to 255.

    Args:
        images: float64 (N, C, H, W).
        vertical: weights times 2 ** `bits`, whole numbers as float64 (h, H).
        horizontal: the same, (w, W).
        bits: fraction bits of the weights.

    Returns:
        float64 (N, C, h, w).
    """
    resized_rows = _rounded(torch.matmul(images, horizontal.T), bits)
    return _rounded(torch.matmul(vertical, resized_rows), bits)


def _rounded(sums: Tensor, bits: int) -> Tensor:
    return torch.clamp(torch.floor(sums / 2.0**bits + 0.5), 0.0, 255.0)
