"""Where each output pixel of a warp comes from, and the image sampled there, as torchvision computes both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import InterpolationMode

from food101_fast.transforms.base import quantized

Fill = float | Sequence[float] | None
"""Value of the pixels outside the image: a number, or one for each channel; None for 0."""
Interpolation: TypeAlias = InterpolationMode | str
Pair = tuple[Tensor, Tensor]


def mode_of(interpolation: Interpolation) -> str:
    """The name of an interpolation: `nearest` or `bilinear`.

    Raises:
        ValueError: it is another one; torchvision warps tensors with these two only.
    """
    mode: str = InterpolationMode(interpolation).value
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation should be nearest or bilinear and is {mode}")
    return mode


def center_of(center: Sequence[float] | None, images: Tensor) -> tuple[float, float]:
    """Convert a center in pixels from the upper left corner to (x, y) from the middle of the image."""
    if center is None:
        return 0.0, 0.0
    return center[0] - images.shape[-1] * 0.5, center[1] - images.shape[-2] * 0.5


def inverse_rotation(angle: Tensor, center: tuple[float, float]) -> Tensor:
    """The matrices of rotations that map output pixels to input pixels.

    Args:
        angle: (N,), in degrees, counter-clockwise; torchvision's affine maps rotate the other way.
        center: x and y in pixels from the middle of the image.

    Returns:
        float64 (N, 2, 3).
    """
    radians = torch.deg2rad(-angle.double())
    cosine, sine = torch.cos(radians), torch.sin(radians)
    return _matrices(cosine, sine, -sine, cosine, center, center)


def inverse_affine(
    angle: Tensor, translate: Pair, scale: Tensor | float, shear: Pair, center: tuple[float, float] | Pair
) -> Tensor:
    """The matrices of affine maps that map output pixels to input pixels, as torchvision computes one of them.

    The affine map is translation * center * rotation * scale * shear y * shear x * center^-1; this is its inverse.

    Args:
        angle: (N,), in degrees.
        translate: a pair of (N,), x and y in pixels.
        scale: (N,), or one number for all.
        shear: a pair of (N,), x and y in degrees.
        center: x and y in pixels from the middle of the image, numbers or (N,).

    Returns:
        float64 (N, 2, 3).
    """
    rotation, shear_x, shear_y = torch.deg2rad(torch.stack([angle, *shear]).double())
    turned, along_x, along_y = rotation - shear_y, torch.tan(shear_x), torch.cos(shear_y)
    a = torch.cos(turned) / along_y
    b = a * along_x + torch.sin(rotation)  # negated
    c = torch.sin(turned) / along_y
    d = torch.cos(rotation) - c * along_x
    moved = (center[0] + translate[0].double(), center[1] + translate[1].double())
    # Without the scale the determinant is 1, so the inverse only rearranges the entries.
    return _matrices(d / scale, b / scale, -c / scale, a / scale, center, moved)


def _matrices(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, center: tuple[float, float] | Pair, moved: tuple[float, float] | Pair
) -> Tensor:
    """Matrices (N, 2, 3) of the linear map [[a, b], [c, d]], each (N,), that maps the point `moved` to `center`."""
    x = center[0] - a * moved[0] - b * moved[1]
    y = center[1] - c * moved[0] - d * moved[1]
    return torch.stack([a, b, x, c, d, y], dim=1).view(-1, 2, 3)


def compute_dtype(images: Tensor) -> torch.dtype:
    """The dtype of grids and samples: float64 if the images are, else float32."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def affine_grid(theta: Tensor, images: Tensor) -> Tensor:
    """The input position of each output pixel, in `grid_sample` coordinates: (N, H, W, 2), see `compute_dtype`."""
    height, width = images.shape[-2:]
    theta = theta.to(compute_dtype(images))
    x, y = (
        torch.linspace((1.0 - size) * 0.5, (size - 1.0) * 0.5, size, dtype=theta.dtype, device=images.device)
        for size in (width, height)
    )
    to_x, to_y = theta[:, 0] / (0.5 * width), theta[:, 1] / (0.5 * height)
    return torch.stack([_plane(to_x, x, y), _plane(to_y, x, y)], dim=-1)


def _plane(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Compute weights[:, 0] * x + weights[:, 1] * y + weights[:, 2]: (N, H, W)."""
    return weights[:, 0, None, None] * x + weights[:, 1, None, None] * y[:, None] + weights[:, 2, None, None]


def perspective_coefficients(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """The perspective map from output to input pixels, when the corners of the image move to (x, y).

    In closed form, without a solver: map the unit square to the four points, invert that map by its adjugate, and
    scale the square to the image.

    Source: P. Heckbert, "Fundamentals of texture mapping and image warping", UC Berkeley (1989), section 2.2.3.

    Args:
        x: (N, 4), in pixels, in the order upper left, upper right, lower right, lower left.
        y: (N, 4), in pixels, in the same order.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        float32 (N, 8), in torchvision's order.
    """
    x0, x1, x2, x3 = x.double().unbind(1)
    y0, y1, y2, y3 = y.double().unbind(1)
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1
    g = (dx3 * dy2 - dx2 * dy3) / determinant
    h = (dx1 * dy3 - dx3 * dy1) / determinant
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    first = ((e - f * h) * (width - 1), (c * h - b) * (width - 1), (b * f - c * e) * (width - 1))
    second = ((f * g - d) * (height - 1), (a - c * g) * (height - 1), (c * d - a * f) * (height - 1))
    last = (d * h - e * g, b * g - a * h, a * e - b * d)
    return (torch.stack([*first, *second, *last[:2]], dim=1) / last[2][:, None]).float()


def perspective_grid(coefficients: Tensor, images: Tensor) -> Tensor:
    """The input position of each output pixel, in `grid_sample` coordinates: (N, H, W, 2), see `compute_dtype`."""
    height, width = images.shape[-2:]
    coefficients = coefficients.to(compute_dtype(images))
    x, y = (
        torch.linspace(0.5, size - 0.5, size, dtype=coefficients.dtype, device=images.device)
        for size in (width, height)
    )
    to_x, to_y = coefficients[:, 0:3] / (0.5 * width), coefficients[:, 3:6] / (0.5 * height)
    depth = _plane(torch.cat([coefficients[:, 6:8], torch.ones_like(coefficients[:, :1])], dim=1), x, y)
    return torch.stack([_plane(to_x, x, y) / depth - 1.0, _plane(to_y, x, y) / depth - 1.0], dim=-1)


def warp(images: Tensor, grid: Tensor, mode: str, fill: Fill) -> Tensor:
    """Sample images (N, C, H, W) at `grid`, and fill pixels from outside the image, as torchvision does.

    To find those pixels, torchvision samples a channel of ones along with the image. Here that channel is computed
    from the grid, without a copy of the image.
    """
    values = images.to(grid.dtype, memory_format=torch.contiguous_format)  # twice as fast in grid_sample
    out = grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
    if fill is None or (mode == "nearest" and fill == 0):
        return quantized(out, images, rounded=True)
    inside = _inside(grid, images.shape[-2], images.shape[-1], mode)[:, None]
    # At the border the samples are already blended with zeros; torchvision blends once more, and so do we.
    if fill == 0:
        return quantized(out * inside, images, rounded=True)
    # A tuple, since torch 2.9 cannot compile a union of types.
    filling = fill if isinstance(fill, (int, float)) else _channels(fill, values)
    out = torch.where(inside < 0.5, filling, out) if mode == "nearest" else (out - filling) * inside + filling
    return quantized(out, images, rounded=True)


def _channels(numbers: Sequence[float], values: Tensor) -> Tensor:
    """A number for each channel: (1, C, 1, 1), with dtype and device of `values`; without a copy from the host."""
    each = [torch.full((), number, dtype=values.dtype, device=values.device) for number in numbers]
    return torch.stack(each).view(1, -1, 1, 1)


def _inside(grid: Tensor, height: int, width: int, mode: str) -> Tensor:
    """The share of each output pixel that comes from inside the image: (N, H, W)."""
    shares = []
    for axis, size in ((0, width), (1, height)):
        pixel = ((grid[..., axis] + 1) * size - 1) / 2
        if mode == "nearest":
            nearest = pixel.round()
            shares.append(((nearest >= 0) & (nearest <= size - 1)).to(grid.dtype))
        else:
            shares.append(torch.minimum(pixel + 1, size - pixel).clamp(0, 1))
    return shares[0] * shares[1]
