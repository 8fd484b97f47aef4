"""The operations of automatic augmentation (shear, rotation, contrast and so on), each image with one of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import PerSampleTransform, max_value, of_images, quantized
from food101_fast.transforms.color import blend, grayscale, sharpness_reference
from food101_fast.transforms.grids import Fill, Interpolation, affine_grid, inverse_affine, mode_of, warp

OPERATIONS = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"),
)
"""Torchvision's names of the operations; `transform_id` is an index into them."""
ALL_BUT_INVERT = OPERATIONS[:-1]
"""The operations of TrivialAugmentWide and RandAugment."""

IDENTITY = 0
INDEX = {name: index for index, name in enumerate(OPERATIONS)}
WARPS, BLENDS = slice(1, 6), slice(6, 10)
SIGNED = slice(1, 10)
"""Operations whose magnitude is negated with probability 1/2."""


class AutomaticTransform(PerSampleTransform):
    """Applies operations that were drawn for each sample; subclasses also inherit from one of torchvision's."""

    interpolation: Interpolation
    fill: Fill

    def _set_up(self) -> None:
        self.interpolation = InterpolationMode(self.interpolation)
        self._mode = mode_of(self.interpolation)

    def in_sequence(self, image: Tensor, indices: Sequence[int], magnitudes: Sequence[float]) -> Tensor:
        """Apply torchvision's operations to one image (C, H, W), one after the other."""
        for index, magnitude in zip(indices, magnitudes, strict=True):
            # In torchvision every automatic augmentation has this method.
            image = self._apply_image_or_video_transform(
                image, OPERATIONS[index], magnitude, interpolation=self.interpolation, fill=self._fill
            )
        return image


def one_hot(which: Tensor) -> Tensor:
    """Indices of operations, int64 (...), as one-hot vectors: bool (..., 15)."""
    return which[..., None] == torch.arange(len(OPERATIONS), device=which.device)


def negated(which: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:
    """Negate the magnitudes (...) of signed operations where `sign`, uniform (...), is at most 1/2."""
    is_negative = one_hot(which)[..., SIGNED].any(dim=-1) & (sign <= 0.5)
    return torch.where(is_negative, -magnitude, magnitude)


def magnitude_table(space: Mapping[str, Any], bins: int) -> Tensor:
    """The magnitudes of each operation and bin, to the bit as torchvision computes them.

    Args:
        space: of torchvision: by operation, how its magnitudes are computed from bins, height and width, and more.
        bins: number of different magnitudes.

    Returns:
        float32 (15, bins); shifts as a share of the image's height or width, see `in_pixels`.
    """
    table = torch.zeros(len(OPERATIONS), bins)
    for name, (magnitudes, _) in space.items():
        values = magnitudes(bins, 1, 1)
        if values is not None:
            table[INDEX[name]] = values
    return table


def in_pixels(which: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """Convert magnitudes (...) of `magnitude_table` to those of images of this size."""
    side = torch.where(which == INDEX["TranslateX"], width, torch.where(which == INDEX["TranslateY"], height, 1))
    return magnitude * side


def apply_operation(
    images: Tensor,
    which: Tensor,
    magnitude: Tensor,
    mode: str,
    fill: Fill,
    among: Collection[str] = OPERATIONS,
) -> Tensor:
    """Apply its own operation to each image: compute each operation for all images, and select.

    Args:
        images: (N, C, H, W), uint8 or floating.
        which: int64 (N,), indices into `OPERATIONS`.
        magnitude: float32 (N,), in torchvision's units.
        mode: `nearest` or `bilinear`.
        fill: value of the pixels outside the image.
        among: the operations that may occur; the others are not computed.

    Returns:
        (N, C, H, W), in the dtype of `images`.
    """
    is_of, out = one_hot(which), images
    if not set(OPERATIONS[WARPS]).isdisjoint(among):
        theta = warp_matrices(which, magnitude, images)
        warped = warp(images, affine_grid(theta, images), mode, fill)
        out = torch.where(of_images(is_of[:, WARPS].any(dim=1)), warped, images)
    if not set(OPERATIONS[BLENDS]).isdisjoint(among):
        out = torch.where(of_images(is_of[:, BLENDS].any(dim=1)), _blended(images, is_of, magnitude, among), out)
    for name, function in _OF_PIXELS.items():
        if name in among:
            out = torch.where(of_images(is_of[:, INDEX[name]]), function(images, magnitude), out)
    return out


def _blended(images: Tensor, is_of: Tensor, magnitude: Tensor, among: Collection[str]) -> Tensor:
    """Each image with its own brightness, color, contrast or sharpness."""

    def take(out: Tensor, of: Tensor | float, name: str) -> Tensor:
        return torch.where(of_images(is_of[:, INDEX[name]]), out, of)

    values = images if images.is_floating_point() else images.float()
    gray = grayscale(values, images)
    other = take(gray.mean(dim=(-3, -2, -1), keepdim=True), take(gray, 0.0, "Color"), "Contrast")
    if "Sharpness" in among:
        other = take(sharpness_reference(values, images), other, "Sharpness")
    return quantized(blend(values, other, 1.0 + magnitude.double(), images), images, rounded=False)


def warp_matrices(which: Tensor, magnitude: Tensor, images: Tensor) -> Tensor:
    """Matrices as of `inverse_affine`, for each image's shear, shift or rotation, else identity: float64 (N, 2, 3)."""
    is_of = one_hot(which)

    def of(name: str, value: Tensor) -> Tensor:
        return torch.where(is_of[:, INDEX[name]], value, 0.0)

    slope, shift = torch.rad2deg(torch.atan(magnitude.double())).to(magnitude.dtype), magnitude.trunc()
    # torchvision shears around the upper left corner.
    from_corner = is_of[:, INDEX["ShearX"]] | is_of[:, INDEX["ShearY"]]
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


def _solarized(images: Tensor, threshold: Tensor) -> Tensor:
    limit = (max_value(images) * threshold.double()).to(images.dtype if images.is_floating_point() else torch.float32)
    inverted: Tensor = F.invert_image(images)
    return torch.where(images >= of_images(limit), inverted, images)


_OF_PIXELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Posterize": _posterized,
    "Solarize": _solarized,
    "AutoContrast": lambda images, magnitude: F.autocontrast_image(images),
    "Equalize": lambda images, magnitude: F.equalize_image(images),
    "Invert": lambda images, magnitude: F.invert_image(images),
}
