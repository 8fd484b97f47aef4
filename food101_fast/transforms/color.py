"""Color, grayscale and blur with one draw per sample, in the order that was drawn for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import (
    CoinToss,
    Params,
    PerSampleTransform,
    SampleParams,
    between,
    max_value,
    of_images,
    quantized,
)
from food101_fast.transforms.products import blur_weights, separable

_CONTRAST, _SATURATION, _HUE = 1, 2, 3
_FACTORS = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's


class ColorJitter(PerSampleTransform, v2.ColorJitter):
    """Change brightness, contrast, saturation and hue of each sample, in an order of its own.

    As `torchvision.transforms.v2.ColorJitter` does one image; 8-bit images are cut off to whole numbers after each of
    the four steps, as there.

    Args:
        brightness, contrast, saturation: range of the factor, (low, high), or a number x for (max(0, 1 - x), 1 + x).
        hue: range of the shift, from -0.5 to 0.5, or a number x for (-x, x).

    Parameters made: `fn_idx`, int64 (N, 4), the order of brightness 0, contrast 1, saturation 2 and hue 3; and of what
    is asked for `brightness_factor`, `contrast_factor`, `saturation_factor`, `hue_factor`, float32 (N,).
    """

    draws = 8

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        params = {"fn_idx": uniform[:, :4].argsort(dim=1)}
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        for index, (name, limits) in enumerate(zip(_FACTORS, ranges, strict=True)):
            if limits is not None:
                params[name] = between(uniform[:, 4 + index], *limits)
        return params

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Blends before the change of hue, the hue once, and blends after it.

        Brightness, contrast and saturation mix an image with black, its mean and its gray, so that one blend serves
        whichever a sample's turn it is; a ratio of 1 leaves a sample as it is.
        """
        _require_color(images)
        order = params["fn_idx"]
        hue = params.get("hue_factor")
        values = images if images.is_floating_point() else images.float()
        # A ratio for each turn, which is 1 for the hue and for what is not asked for.
        one = torch.ones(len(order), device=order.device)
        factors = [params.get(name, one) for name in _FACTORS[:_HUE]]
        ratios = torch.stack([*factors, one], dim=1).double().gather(1, order)
        kinds = (order == _CONTRAST, order == _SATURATION)
        turns = range(4) if any(name in params for name in _FACTORS[:_HUE]) else ()
        if hue is None:
            return self._blends(values, images, turns, ratios, kinds).to(images.dtype)
        is_before = torch.arange(4, device=order.device) < (order == _HUE).float().argmax(dim=1, keepdim=True)
        values = self._blends(values, images, turns[:3], torch.where(is_before, ratios, 1.0), kinds)
        values = shift_hue(values, hue, images)
        values = self._blends(values, images, turns[1:], torch.where(is_before, 1.0, ratios), kinds)
        return values.to(images.dtype)

    def _blends(
        self, values: Tensor, images: Tensor, turns: Sequence[int], ratios: Tensor, kinds: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One blend after the other: of each sample with black, or its mean or its gray where `kinds` (N, 4) say so."""
        mine, others = (share.to(values.dtype) for share in (ratios, 1.0 - ratios))
        for turn in turns:
            gray = grayscale(values, images)
            is_contrast, is_saturation = (of_images(kind[:, turn]) for kind in kinds)
            other = torch.where(is_saturation, gray, 0.0)
            other = torch.where(is_contrast, gray.mean(dim=(-3, -2, -1), keepdim=True), other)
            values = mix(values, other, of_images(mine[:, turn]), of_images(others[:, turn]), images)
        return values

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """torchvision's four functionals."""
        adjust = (F.adjust_brightness_image, F.adjust_contrast_image, F.adjust_saturation_image, F.adjust_hue_image)
        for index in params["fn_idx"]:
            factor = params.get(_FACTORS[index])
            if factor is not None:
                image = adjust[index](image, factor)
        return image


class RandomGrayscale(CoinToss, v2.RandomGrayscale):
    """Take the color out of each sample with probability `p`, as torchvision's does one image.

    Parameters made: `apply`, bool (N,).
    """

    is_cheap = True

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """All of them."""
        if images.shape[1] == 1:
            return images
        _require_color(images)
        return quantized(weighted_gray(images), images, rounded=False).expand_as(images)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """torchvision's `rgb_to_grayscale`."""
        return F.rgb_to_grayscale_image(image, num_output_channels=image.shape[0])


class GaussianBlur(PerSampleTransform, v2.GaussianBlur):
    """Blur each sample with a width of its own, as `torchvision.transforms.v2.GaussianBlur` does one image.

    Args:
        kernel_size: odd number of pixels, or a pair (x, y).
        sigma: range of the standard deviation in pixels, or a number.

    Parameters made: `sigma`, float32 (N,), in pixels.

    Raises:
        ValueError: half of the kernel is not smaller than the image, which is mirrored at its border.
    """

    draws = 1

    def __init__(self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        v2.GaussianBlur.__init__(self, kernel_size, sigma)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        if self.kernel_size[0] // 2 >= width or self.kernel_size[1] // 2 >= height:
            raise ValueError(
                f"images of {height} x {width} pixels are too small for a kernel of {tuple(self.kernel_size)}"
            )
        return {"sigma": between(uniform[:, 0], *self.sigma)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Two matrix products."""
        columns, rows = (
            blur_weights(gaussian_kernel(size, params["sigma"]), length)
            for size, length in zip(self.kernel_size, (images.shape[-1], images.shape[-2]), strict=True)
        )
        return separable(images, rows, columns)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """torchvision's `gaussian_blur`."""
        return F.gaussian_blur_image(image, list(self.kernel_size), [params["sigma"]])


def gaussian_kernel(size: int, sigma: Tensor) -> Tensor:
    """torchvision's kernels: float32 (N, size), each adds up to 1. Its distances are those of a diagonal."""
    limit = (size - 1) / (2.0 * math.sqrt(2.0))
    distance = torch.linspace(-limit, limit, size, device=sigma.device)
    return torch.softmax(-((distance / sigma[:, None]) ** 2), dim=1)


def blend(values: Tensor, other: Tensor, ratio: Tensor, images: Tensor) -> Tensor:
    """ratio * values + (1 - ratio) * other, within bounds, and whole where the images are.

    Args:
        values: floating (N, C, H, W).
        other: floating, broadcasts to `values`.
        ratio: (N,).
        images: what the values come from; their dtype decides.

    Returns:
        Floating, like `values`.
    """
    ratio = of_images(ratio.double())
    return mix(values, other, ratio.to(values.dtype), (1.0 - ratio).to(values.dtype), images)


def mix(values: Tensor, other: Tensor, mine: Tensor, others: Tensor, images: Tensor) -> Tensor:
    """`blend` with both shares, (N, 1, 1, 1), in the dtype of `values`."""
    mixed = (values * mine + other * others).clamp(0, max_value(images))
    return mixed if images.is_floating_point() else mixed.floor()


def weighted_gray(values: Tensor) -> Tensor:
    """Luma of RGB images with torchvision's weights: floating (N, 1, H, W)."""
    red, green, blue = values.split(1, dim=-3)
    return red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]


def grayscale(values: Tensor, images: Tensor) -> Tensor:
    """Luma as torchvision's contrast and saturation use it: whole where the images are; (N, 1, H, W)."""
    if values.shape[1] == 1:
        return values
    gray = weighted_gray(values)
    return gray if images.is_floating_point() else gray.floor()


def shift_hue(values: Tensor, shift: Tensor, images: Tensor) -> Tensor:
    """Turn the hue of RGB images.

    Hue to RGB is v - v * s * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6 and n = 5, 3, 1, which needs no table.

    Args:
        values: floating (N, 3, H, W), from 0 to the largest value of `images`.
        shift: (N,), in turns.
        images: what the values come from; their dtype decides.

    Returns:
        Floating, like `values`; whole where the images are.
    """
    if values.shape[1] == 1:
        return values
    rgb = values / max_value(images)
    red, green, blue = rgb.unbind(-3)
    low, high = rgb.amin(-3), rgb.amax(-3)
    chroma = high - low
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    hue = (hue / 6.0 + 1.0).fmod(1.0) + shift[:, None, None].to(rgb.dtype)
    sixths = hue.remainder(1.0) * 6.0
    # v * s is the chroma.
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = (n + sixths).remainder(6.0)
        channels.append(high - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    out = torch.stack(channels, dim=-3)
    if images.is_floating_point():
        return out
    return (out * (256 - 1e-3)).floor().clamp(0, 255)  # as torchvision turns floating images into bytes


def sharpness_reference(values: Tensor, images: Tensor) -> Tensor:
    """The smoothed image that sharpness is measured from; its border is the image's own. Floating (N, C, H, W)."""
    if min(values.shape[-2:]) <= 2:
        return values
    channels = values.shape[1]
    kernel = torch.full((channels, 1, 3, 3), 1.0 / 13.0, dtype=values.dtype, device=values.device)
    kernel[:, :, 1, 1] = 5.0 / 13.0
    inner = torch.nn.functional.conv2d(values, kernel, groups=channels)
    if not images.is_floating_point():
        inner = inner.round()
    border = torch.nn.functional.pad(torch.ones_like(inner[:1, :1]), (1, 1, 1, 1)) == 0
    return torch.where(border, values, torch.nn.functional.pad(inner, (1, 1, 1, 1)))


def _require_color(images: Tensor) -> None:
    if images.shape[1] not in (1, 3):
        raise TypeError(f"images should have 1 or 3 channels and have {images.shape[1]}")
