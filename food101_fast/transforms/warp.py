"""Rotation, affine and perspective warps with one draw per sample, interpolated as torchvision interpolates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import APPLY, Params, PerSampleTransform, SampleParams, between, integer_below
from food101_fast.transforms.grids import (
    Fill,
    Interpolation,
    affine_grid,
    center_of,
    inverse_affine,
    inverse_rotation,
    mode_of,
    perspective_coefficients,
    perspective_grid,
    warp,
)


class RandomRotation(PerSampleTransform, v2.RandomRotation):
    """Rotate each sample by its own angle, as `torchvision.transforms.v2.RandomRotation` does one image.

    Args:
        degrees: range of angles, (low, high), or a number for (-degrees, degrees).
        interpolation: nearest or bilinear.
        expand: must be False, since all images of a batch have one size.
        center: the fixed point, (x, y) in pixels from the upper left corner; None for the image's center.
        fill: value of the pixels outside the image; a number, or one for each channel.

    Parameters: `angle`, float32 (N,), in degrees, counter-clockwise.

    Raises:
        ValueError: an argument is out of its range.
    """

    draws = 1

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: Interpolation = InterpolationMode.NEAREST,
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Fill = 0,
    ) -> None:
        if expand:
            raise ValueError("expand should be False: images of one batch have one size")
        v2.RandomRotation.__init__(self, degrees, InterpolationMode(interpolation), expand, center, fill)
        self._mode = mode_of(interpolation)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the angles."""
        return {"angle": between(uniform[:, 0], *self.degrees)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Sample each image at its own grid."""
        theta = inverse_rotation(params["angle"], center_of(self.center, images))
        return warp(images, affine_grid(theta, images), self._mode, self.fill)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `rotate`."""
        return F.rotate_image(image, params["angle"], self.interpolation, False, self.center, self.fill)


class RandomAffine(PerSampleTransform, v2.RandomAffine):
    """Rotate, shift, scale and shear each sample, as `torchvision.transforms.v2.RandomAffine` does one image.

    Args:
        degrees: range of angles, (low, high), or a number for (-degrees, degrees).
        translate: largest shift as a share of width and height; None for no shift.
        scale: range of the scale; None for 1.
        shear: range of the shear along x, or along x and y (four numbers), in degrees; None for no shear.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel.
        center: the fixed point, (x, y) in pixels from the upper left corner; None for the image's center.

    Parameters: `angle` and `scale`, float32 (N,), `translate`, int64 (N, 2) in pixels, `shear`, float32 (N, 2),
    x before y; angles in degrees.
    """

    draws = 6

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        v2.RandomAffine.__init__(self, degrees, translate, scale, shear, InterpolationMode(interpolation), fill, center)
        self._mode = mode_of(interpolation)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw angles, shifts, scales and shears."""
        angle, dx, dy, scale, shear_x, shear_y = uniform.unbind(1)
        largest = self.translate or (0.0, 0.0)
        bounds = (float(largest[0] * width), float(largest[1] * height))
        shifts = [torch.round(between(u, -bound, bound)).long() for u, bound in zip((dx, dy), bounds, strict=True)]
        shear = [*(self.shear or (0.0, 0.0)), 0.0, 0.0]
        shears = [between(shear_x, shear[0], shear[1]), between(shear_y, shear[2], shear[3])]
        return {
            "angle": between(angle, *self.degrees),
            "translate": torch.stack(shifts, dim=1),
            "scale": between(scale, *(self.scale or (1.0, 1.0))),
            "shear": torch.stack(shears, dim=1),
        }

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Sample each image at its own grid."""
        translate, shear = params["translate"], params["shear"]
        theta = inverse_affine(
            params["angle"],
            (translate[:, 0], translate[:, 1]),
            params["scale"],
            (shear[:, 0], shear[:, 1]),
            center_of(self.center, images),
        )
        return warp(images, affine_grid(theta, images), self._mode, self.fill)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `affine`."""
        return F.affine_image(image, **params, interpolation=self.interpolation, fill=self.fill, center=self.center)


class RandomPerspective(PerSampleTransform, v2.RandomPerspective):
    """Change the perspective of each sample, as `torchvision.transforms.v2.RandomPerspective` does for one image.

    Args:
        distortion_scale: how far the corners move, from 0 to 1.
        p: probability that a sample is changed.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel.

    Parameters: `coefficients`, float32 (N, 8), as for torchvision's `perspective`, and `apply`, bool (N,). If the
    corners are on a line (only with a `distortion_scale` near 1), the sample is unchanged; torchvision raises an error.
    """

    draws = 9

    def __init__(
        self,
        distortion_scale: float = 0.5,
        p: float = 0.5,
        interpolation: Interpolation = InterpolationMode.BILINEAR,
        fill: Fill = 0,
    ) -> None:
        v2.RandomPerspective.__init__(self, distortion_scale, p, InterpolationMode(interpolation), fill)
        self._mode = mode_of(interpolation)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the corners, and which samples are changed."""
        across = integer_below(uniform[:, 0:4], int(self.distortion_scale * (width // 2)) + 1)
        down = integer_below(uniform[:, 4:8], int(self.distortion_scale * (height // 2)) + 1)
        # Upper left, upper right, lower right, lower left: each moves inwards.
        x = torch.stack([across[:, 0], width - 1 - across[:, 1], width - 1 - across[:, 2], across[:, 3]], dim=1)
        y = torch.stack([down[:, 0], down[:, 1], height - 1 - down[:, 2], height - 1 - down[:, 3]], dim=1)
        coefficients = perspective_coefficients(x, y, height, width)
        possible = coefficients.isfinite().all(dim=1)
        return {
            "coefficients": torch.where(possible[:, None], coefficients, 0.0),
            APPLY: possible & (uniform[:, 8] < self.p),
        }

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Sample each image at its own grid."""
        return warp(images, perspective_grid(params["coefficients"], images), self._mode, self.fill)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `perspective`."""
        return F.perspective_image(
            image, None, None, interpolation=self.interpolation, fill=self.fill, coefficients=params["coefficients"]
        )
