"""Crops and flips with one draw per sample and torchvision's pixels.

On CUDA, a crop with an antialiased resize is two batched matrix products, one for each axis, with the same filter as
torchvision's kernel. On the CPU a loop over torchvision's own kernel is fastest: about ten times the rate of the
products, for uint8 from 192 to 160 px on two cores. Both use the same parameters, and both include a flip that follows
the crop: the weights or the rows are mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import (
    TRIES,
    CoinToss,
    Params,
    PerSampleTransform,
    SampleParams,
    first_fitting,
    goes_one_by_one,
    integer_below,
    tried_sides,
)
from food101_fast.transforms.products import FILTERS, crop_resize_weights, separable

_FLIP = "flip"


class RandomResizedCrop(PerSampleTransform, v2.RandomResizedCrop):
    """A crop of random area and proportions for each sample, resized to `size`, antialiased.

    The same distribution as `torchvision.transforms.v2.RandomResizedCrop`: the first of ten tries that fits, or else
    the largest central crop with allowed proportions.

    Args:
        size: height and width of the output in pixels, one number for both or a pair.
        scale: lower and upper bound of the crop's area as a share of the image's.
        ratio: lower and upper bound of the crop's width over its height.
        interpolation: bilinear or bicubic.
        antialias: must be True, torchvision's default; without it tensors and PIL images give different results.

    Parameters: `top`, `left`, `height`, `width`, int64 (N,), in pixels.

    Raises:
        ValueError: an argument is out of its range.
    """

    draws = 2 * TRIES + 2

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
        antialias: bool | None = True,
    ) -> None:
        pair = (size, size) if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1)
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"size should be a number of pixels or a pair (h, w) and is {size!r}")
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"scale {scale} and ratio {ratio} should be (low, high) and positive")
        v2.RandomResizedCrop.__init__(self, pair, scale, ratio, InterpolationMode(interpolation), antialias)
        self._filter = self.interpolation.value
        if self._filter not in FILTERS or antialias is not True:
            raise ValueError(f"interpolation should be {' or '.join(FILTERS)} with antialias=True")

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the crops, in pixels."""
        w, h = tried_sides(uniform, height * width, self.scale, self.ratio)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        any_fits = fits.any(dim=1)
        fallback_h, fallback_w = self._central_crop(height, width)
        h, w = first_fitting(fits, h, fallback_h), first_fitting(fits, w, fallback_w)
        top = integer_below(uniform[:, 2 * TRIES], height - h + 1)
        left = integer_below(uniform[:, 2 * TRIES + 1], width - w + 1)
        top = torch.where(any_fits, top, (height - fallback_h) // 2)
        left = torch.where(any_fits, left, (width - fallback_w) // 2)
        return {"top": top, "left": left, "height": h, "width": w}

    def _central_crop(self, height: int, width: int) -> tuple[int, int]:
        if width / height < self.ratio[0]:
            return round(width / self.ratio[0]), width
        if width / height > self.ratio[1]:
            return height, round(height * self.ratio[1])
        return height, width

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Crop and resize with two matrix products, see `resized_crop_products`."""
        return self._products(images, params, None)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's resize to a view of the image; mirror the result if `flip` is set."""
        rows = slice(params["top"], params["top"] + params["height"])
        columns = slice(params["left"], params["left"] + params["width"])
        out = F.resize_image(image[:, rows, columns], list(self.size), self.interpolation, antialias=True)
        return out.flip(-1) if params.get(_FLIP, False) else out

    def transform_and_flip(self, images: Tensor, params: Params, flip: Tensor) -> Tensor:
        """As `transform`, and mirror the images whose `flip`, bool (N,), is set, at no extra cost."""
        if not goes_one_by_one(images):
            return self._products(images, params, flip)
        return self.one_by_one(images, {**params, _FLIP: flip})

    def _products(self, images: Tensor, params: Params, flip: Tensor | None) -> Tensor:
        top, left, height, width = (params[name] for name in ("top", "left", "height", "width"))
        return resized_crop_products(images, top, left, height, width, self.size, self._filter, flip)


class RandomHorizontalFlip(CoinToss, v2.RandomHorizontalFlip):
    """Mirror each sample with probability `p`, as `torchvision.transforms.v2.RandomHorizontalFlip` does one image.

    Parameters: `apply`, bool (N,).
    """

    is_cheap = True

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Mirror all images."""
        return images.flip(-1)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Mirror the image."""
        return image.flip(-1)


class RandomVerticalFlip(CoinToss, v2.RandomVerticalFlip):
    """Turn each sample upside down with probability `p`, as torchvision's transform does one image.

    Parameters: `apply`, bool (N,).
    """

    is_cheap = True

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Turn all images upside down."""
        return images.flip(-2)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Turn the image upside down."""
        return image.flip(-2)


def resized_crop_products(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    size: tuple[int, int],
    interpolation: str = "bilinear",
    flip: Tensor | None = None,
    compute: torch.dtype | None = None,
) -> Tensor:
    """Crop, resize and mirror all images at once, as one matrix product for each axis.

    Args:
        images: (N, C, H, W), uint8 or floating, on any device.
        top: of the crops, int64 (N,), in pixels.
        left: of the crops, int64 (N,), in pixels.
        height: of the crops, int64 (N,), in pixels.
        width: of the crops, int64 (N,), in pixels.
        size: height and width of the output, in pixels.
        interpolation: `bilinear` or `bicubic`.
        flip: which images to mirror, bool (N,); None for no image.
        compute: dtype of the factors, see `separable`.

    Returns:
        (N, C, *size), dtype and memory format of `images`.
    """
    rows = crop_resize_weights(top, height, images.shape[-2], size[0], interpolation)
    columns = crop_resize_weights(left, width, images.shape[-1], size[1], interpolation)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return separable(images, rows, columns, compute)
