"""Separable filters of whole batches as two batched matrix products, one for each axis, with weights for each sample.

The matrices are mostly zeros, but GPUs are fastest at this: one launch for the whole batch, on their matrix units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from food101_fast.transforms.base import memory_format, quantized


def triangle(distance: Tensor) -> Tensor:
    """The bilinear filter at `distance`, in units of the filter's width, any shape."""
    return (1 - distance.abs()).clamp(min=0)


def keys_cubic(distance: Tensor) -> Tensor:
    """The bicubic filter with a = -0.5, as torch and Pillow use it for antialiasing.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29 (1981).
    """
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": triangle, "bicubic": keys_cubic}


def crop_resize_weights(
    start: Tensor, length: Tensor, source: int, target: int, interpolation: str = "bilinear"
) -> Tensor:
    """Matrices that crop `[start, start + length)` of an axis and resize it to `target`, antialiased.

    The weights equal those of torch's `interpolate(antialias=True)`: the filter is one output pixel wide, but at least
    one input pixel, centered at half pixels, and normalized over the pixels inside the crop.

    Args:
        start: of the crops, int64 (N,), in pixels of the source axis.
        length: of the crops, int64 (N,), in pixels of the source axis.
        source: length of the source axis, in pixels.
        target: length of the output axis, in pixels.
        interpolation: one of `FILTERS`.

    Returns:
        float32 (N, target, source); each row has sum 1.
    """
    pixel = torch.arange(source, device=start.device)
    inside = pixel - start[:, None]
    scale = length.to(torch.float32)[:, None] / target
    center = scale * (torch.arange(target, device=start.device) + 0.5)
    width = scale.clamp(min=1.0)
    distance = (inside[:, None, :] + 0.5 - center[:, :, None]) / width[:, :, None]
    weights = FILTERS[interpolation](distance)
    weights = weights * ((inside >= 0) & (inside < length[:, None]))[:, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


def blur_weights(kernel: Tensor, length: int) -> Tensor:
    """Matrices that convolve an axis with each sample's kernel, mirrored at the ends (torch's `reflect`).

    Args:
        kernel: float32 (N, K), K odd, K // 2 below `length`.
        length: of the axis, in pixels.

    Returns:
        float32 (N, length, length).
    """
    size = kernel.shape[1]
    pixel = torch.arange(length, device=kernel.device)
    taken = pixel[:, None] + torch.arange(size, device=kernel.device) - size // 2
    taken = (length - 1) - ((length - 1) - taken.abs()).abs()
    of_tap = (taken[:, :, None] == pixel).to(kernel.dtype)  # (length, K, length)
    return torch.einsum("nk,tks->nts", kernel, of_tap)


def separable(images: Tensor, rows: Tensor, columns: Tensor, compute: torch.dtype | None = None) -> Tensor:
    """Multiply every image with matrices from both sides.

    Args:
        images: (N, C, H, W), uint8 or floating.
        rows: float32 (N, h, H).
        columns: float32 (N, w, W).
        compute: dtype of the factors; by default that of floating images; for uint8, float16 on CUDA (with sums in
            float32) and float32 elsewhere.

    Returns:
        (N, C, h, w), in dtype and memory format of `images`; uint8 is rounded as in torchvision.
    """
    if compute is None:
        compute = images.dtype if images.is_floating_point() else torch.float16 if images.is_cuda else torch.float32
    factors = images.to(compute, memory_format=torch.contiguous_format)
    # (N, 1, h, H) @ (N, C, H, W) @ (N, 1, W, w): columns first, so that the second product reads less.
    out = rows.to(compute)[:, None] @ (factors @ columns.to(compute)[:, None].transpose(-1, -2))
    return quantized(out, images, rounded=True).contiguous(memory_format=memory_format(images))
