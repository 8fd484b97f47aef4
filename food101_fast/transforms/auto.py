"""TrivialAugmentWide and RandAugment, with operations and magnitudes drawn for each sample.

AugMix is missing on purpose: for a whole batch at once, its three chains of up to three operations would compute all
14 operations nine times, and use one result of 14 each time.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import (
    Params,
    PerSampleTransform,
    SampleParams,
    between,
    integer_below,
    max_value,
    of_images,
    quantized,
)
from food101_fast.transforms.color import blend, grayscale, sharpness_reference
from food101_fast.transforms.grids import Fill, Interpolation, affine_grid, inverse_affine, mode_of, warp

OPERATIONS = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
"""Torchvision's names of the operations; `transform_id` is an index into them."""

_WARPS, _BLENDS = slice(1, 6), slice(6, 10)
_SIGNED = slice(1, 10)  # operations whose magnitude is negated with probability 1/2
_INDEX = {name: index for index, name in enumerate(OPERATIONS)}

Ranges = dict[str, tuple[float, float]]
"""For each operation the magnitudes of the first and the last bin; those between are evenly spaced."""


class _AutomaticTransform(PerSampleTransform):
    """Applies operations that were drawn for each sample, one after the other."""

    num_magnitude_bins: int
    interpolation: Interpolation
    fill: Fill

    def _set_up(self) -> None:
        self.interpolation = InterpolationMode(self.interpolation)
        self._mode = mode_of(self.interpolation)

    @abstractmethod
    def ranges(self, height: int, width: int) -> Ranges:
        """Ranges of the magnitudes for images of this size."""

    def _drawn(self, operation: Tensor, position: Tensor, sign: Tensor, height: int, width: int) -> Params:
        """Compute parameters from uniform numbers.

        Args:
            operation: decides the operations, uniform (N, K).
            position: of the magnitudes, from 0 for the first bin to 1 for the last; (N, K).
            sign: decides the signs of the magnitudes, uniform (N, K).
            height: of the images, in pixels.
            width: of the images, in pixels.
        """
        which = integer_below(operation, len(OPERATIONS))
        is_of = _one_hot(which)
        magnitude = torch.zeros_like(operation)
        values: dict[tuple[float, float], Tensor] = {}  # several operations share a range
        for name, (low, high) in self.ranges(height, width).items():
            if (low, high) not in values:
                values[low, high] = between(position, low, high)
            value = values[low, high].round() if name == "Posterize" else values[low, high]
            magnitude = torch.where(is_of[..., _INDEX[name]], value, magnitude)
        is_negative = is_of[..., _SIGNED].any(dim=-1) & (sign <= 0.5)
        return {"transform_id": which, "magnitude": torch.where(is_negative, -magnitude, magnitude)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Apply one operation of each sample after the other; each computes all 14 and selects."""
        for which, magnitude in zip(params["transform_id"].unbind(1), params["magnitude"].unbind(1), strict=True):
            images = apply_operation(images, which, magnitude, self._mode, self.fill)
        return images

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's operations."""
        for index, magnitude in zip(params["transform_id"], params["magnitude"], strict=True):
            # In torchvision every automatic augmentation has this method.
            image = self._apply_image_or_video_transform(
                image, OPERATIONS[index], magnitude, interpolation=self.interpolation, fill=self._fill
            )
        return image


class TrivialAugmentWide(_AutomaticTransform, v2.TrivialAugmentWide):
    """One random operation of random magnitude for each sample, as torchvision's transform does for one image.

    Source: Müller and Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", ICCV 2021.

    Args:
        num_magnitude_bins: number of different magnitudes.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, 1), an index into `OPERATIONS`, and `magnitude`, float32 (N, 1).
    """

    draws = 3

    def __init__(
        self,
        num_magnitude_bins: int = 31,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = None,
    ) -> None:
        if num_magnitude_bins < 2:
            raise ValueError(f"num_magnitude_bins should be at least 2 and is {num_magnitude_bins}")
        v2.TrivialAugmentWide.__init__(self, num_magnitude_bins, interpolation, fill)
        self._set_up()

    def ranges(self, height: int, width: int) -> Ranges:
        """The wide ranges in the paper's table."""
        return {
            **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.99)),
            **dict.fromkeys(("TranslateX", "TranslateY"), (0.0, 32.0)),
            "Rotate": (0.0, 135.0),
            "Posterize": (8.0, 2.0),
            "Solarize": (1.0, 0.0),
        }

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw an operation, a magnitude and a sign for each sample."""
        operation, magnitude, sign = uniform[:, 0:1], uniform[:, 1:2], uniform[:, 2:3]
        position = integer_below(magnitude, self.num_magnitude_bins) / (self.num_magnitude_bins - 1)
        return self._drawn(operation, position, sign, height, width)


class RandAugment(_AutomaticTransform, v2.RandAugment):
    """Several random operations of one magnitude for each sample, as torchvision's transform does for one image.

    Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS
    2020.

    Args:
        num_ops: number of operations for each sample.
        magnitude: of all operations, below `num_magnitude_bins`.
        num_magnitude_bins: number of different magnitudes.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, num_ops), indices into `OPERATIONS`, and `magnitude`, float32
    (N, num_ops).
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = None,
    ) -> None:
        if not 0 <= magnitude < num_magnitude_bins or num_magnitude_bins < 2:
            raise ValueError(
                f"magnitude should be at least 0 and below num_magnitude_bins, and is {magnitude} of "
                f"{num_magnitude_bins}"
            )
        v2.RandAugment.__init__(self, num_ops, magnitude, num_magnitude_bins, interpolation, fill)
        self.draws = 2 * num_ops
        self._set_up()

    def ranges(self, height: int, width: int) -> Ranges:
        """The ranges of the paper, as in torchvision."""
        return {
            **dict.fromkeys(("ShearX", "ShearY"), (0.0, 0.3)),
            "TranslateX": (0.0, 150.0 / 331.0 * width),
            "TranslateY": (0.0, 150.0 / 331.0 * height),
            "Rotate": (0.0, 30.0),
            **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.9)),
            "Posterize": (8.0, 4.0),
            "Solarize": (1.0, 0.0),
        }

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw operations and signs for each sample."""
        operation, sign = uniform[:, : self.num_ops], uniform[:, self.num_ops :]
        position = torch.full_like(operation, self.magnitude / (self.num_magnitude_bins - 1))
        return self._drawn(operation, position, sign, height, width)


def apply_operation(images: Tensor, which: Tensor, magnitude: Tensor, mode: str, fill: Fill) -> Tensor:
    """Apply its own operation to each image.

    Args:
        images: (N, C, H, W), uint8 or floating.
        which: int64 (N,), indices into `OPERATIONS`.
        magnitude: float32 (N,), in torchvision's units.
        mode: `nearest` or `bilinear`.
        fill: value of the pixels outside the image.

    Returns:
        (N, C, H, W), in the dtype of `images`.
    """
    is_of = _one_hot(which)

    def take(out: Tensor, of: Tensor | float, name: str) -> Tensor:
        return torch.where(of_images(is_of[:, _INDEX[name]]), out, of)

    values = images if images.is_floating_point() else images.float()
    theta = warp_matrices(which, magnitude, images)
    warped = warp(images, affine_grid(theta, images), mode, fill)
    out = torch.where(of_images(is_of[:, _WARPS].any(dim=1)), warped, images)
    gray = grayscale(values, images)
    other = take(gray.mean(dim=(-3, -2, -1), keepdim=True), take(gray, 0.0, "Color"), "Contrast")
    other = take(sharpness_reference(values, images), other, "Sharpness")
    blended = quantized(blend(values, other, 1.0 + magnitude.double(), images), images, rounded=False)
    out = torch.where(of_images(is_of[:, _BLENDS].any(dim=1)), blended, out)
    out = take(_posterized(images, magnitude), out, "Posterize")
    threshold = (max_value(images) * magnitude.double()).to(values.dtype)
    out = take(torch.where(values >= of_images(threshold), F.invert_image(images), images), out, "Solarize")
    out = take(F.autocontrast_image(images), out, "AutoContrast")
    return take(F.equalize_image(images), out, "Equalize")


def _one_hot(which: Tensor) -> Tensor:
    """Indices of operations, int64 (...), as one-hot vectors: bool (..., 14)."""
    return which[..., None] == torch.arange(len(OPERATIONS), device=which.device)


def warp_matrices(which: Tensor, magnitude: Tensor, images: Tensor) -> Tensor:
    """Matrices as of `inverse_affine`, for each image's shear, shift or rotation, else identity: float64 (N, 2, 3)."""
    is_of = _one_hot(which)

    def of(name: str, value: Tensor) -> Tensor:
        return torch.where(is_of[:, _INDEX[name]], value, 0.0)

    slope, shift = torch.rad2deg(torch.atan(magnitude.double())).to(magnitude.dtype), magnitude.trunc()
    # torchvision shears around the upper left corner.
    from_corner = is_of[:, _INDEX["ShearX"]] | is_of[:, _INDEX["ShearY"]]
    center = tuple(-0.5 * size * from_corner for size in (images.shape[-1], images.shape[-2]))
    return inverse_affine(
        of("Rotate", -magnitude),
        (of("TranslateX", shift), of("TranslateY", shift)),
        1.0,
        (of("ShearX", slope), of("ShearY", slope)),
        (center[0], center[1]),
    )


def _posterized(images: Tensor, bits: Tensor) -> Tensor:
    bits = of_images(bits.clamp(0, 8).long())
    if images.is_floating_point():
        levels = (1 << bits).to(images.dtype)
        return torch.minimum((images * levels).floor().clamp(min=0), levels - 1) * (1.0 / levels)
    return images & ((255 << (8 - bits)) & 255).to(torch.uint8)
