"""Color, grayscale and blur with one draw per sample."""

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
    """Change brightness, contrast, saturation and hue of each sample, in a random order for each.

    Does to each sample what `torchvision.transforms.v2.ColorJitter` does to one image; as there, 8-bit images are
    rounded down after each of the four steps.

    Args:
        brightness, contrast, saturation: range of the factor, (low, high), or a number x for (max(0, 1 - x), 1 + x).
        hue: range of the shift, from -0.5 to 0.5, or a number x for (-x, x).

    Parameters: `fn_idx`, int64 (N, 4), the order of brightness 0, contrast 1, saturation 2 and hue 3; and of
    `brightness_factor`, `contrast_factor`, `saturation_factor`, `hue_factor`, float32 (N,), those that have a range.
    """

    draws = 8

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the order and the factors."""
        params = {"fn_idx": uniform[:, :4].argsort(dim=1)}
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        for index, (name, limits) in enumerate(zip(_FACTORS, ranges, strict=True)):
            if limits is not None:
                params[name] = between(uniform[:, 4 + index], *limits)
        return params

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Blend, change the hue once, and blend again.

        Brightness, contrast and saturation blend an image with black, with its mean and with its gray image. So each
        step is one blend, in which every sample has its own second image; a ratio of 1 leaves a sample unchanged.
        """
        _require_color(images)
        order = params["fn_idx"]
        hue = params.get("hue_factor")
        values = images if images.is_floating_point() else images.float()
        # A ratio for each step, 1 for the hue and for what has no range.
        one = torch.ones(len(order), device=order.device)
        factors = [params.get(name, one) for name in _FACTORS[:_HUE]]
        ratios = torch.stack([*factors, one], dim=1).double().gather(1, order)
        kinds = (order == _CONTRAST, order == _SATURATION)
        steps = range(4) if any(name in params for name in _FACTORS[:_HUE]) else ()
        if hue is None:
            return self._blends(values, images, steps, ratios, kinds).to(images.dtype)
        is_before = torch.arange(4, device=order.device) < (order == _HUE).float().argmax(dim=1, keepdim=True)
        values = self._blends(values, images, steps[:3], torch.where(is_before, ratios, 1.0), kinds)
        values = shift_hue(values, hue, images)
        values = self._blends(values, images, steps[1:], torch.where(is_before, 1.0, ratios), kinds)
        return values.to(images.dtype)

    def _blends(
        self, values: Tensor, images: Tensor, steps: Sequence[int], ratios: Tensor, kinds: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Blend each sample in each step with its mean or gray image where `kinds` (N, 4) are set, else with black."""
        mine, others = (share.to(values.dtype) for share in (ratios, 1.0 - ratios))
        for step in steps:
            gray = grayscale(values, images)
            is_contrast, is_saturation = (of_images(kind[:, step]) for kind in kinds)
            other = torch.where(is_saturation, gray, 0.0)
            other = torch.where(is_contrast, gray.mean(dim=(-3, -2, -1), keepdim=True), other)
            values = mix(values, other, of_images(mine[:, step]), of_images(others[:, step]), images)
        return values

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's four functionals in the drawn order."""
        adjust = (F.adjust_brightness_image, F.adjust_contrast_image, F.adjust_saturation_image, F.adjust_hue_image)
        for index in params["fn_idx"]:
            factor = params.get(_FACTORS[index])
            if factor is not None:
                image = adjust[index](image, factor)
        return image


class RandomGrayscale(CoinToss, v2.RandomGrayscale):
    """Make each sample gray with probability `p`, as `torchvision.transforms.v2.RandomGrayscale` does for one image.

    Parameters: `apply`, bool (N,).
    """

    is_cheap = True

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Make all images gray."""
        if images.shape[1] == 1:
            return images
        _require_color(images)
        return quantized(weighted_gray(images), images, rounded=False).expand_as(images)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `rgb_to_grayscale`."""
        return F.rgb_to_grayscale_image(image, num_output_channels=image.shape[0])


class GaussianBlur(PerSampleTransform, v2.GaussianBlur):
    """Blur each sample with its own sigma, as `torchvision.transforms.v2.GaussianBlur` does one image.

    Args:
        kernel_size: odd number of pixels, or a pair (x, y).
        sigma: range of the standard deviation in pixels, or a number.

    Parameters: `sigma`, float32 (N,), in pixels.

    Raises:
        ValueError: the image, which is mirrored at its border, is not larger than half of the kernel.
    """

    draws = 1

    def __init__(self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        v2.GaussianBlur.__init__(self, kernel_size, sigma)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the standard deviations."""
        if self.kernel_size[0] // 2 >= width or self.kernel_size[1] // 2 >= height:
            raise ValueError(
                f"images of {height} x {width} pixels are too small for a kernel of {tuple(self.kernel_size)}"
            )
        return {"sigma": between(uniform[:, 0], *self.sigma)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Blur rows and columns with one matrix product each."""
        columns, rows = (
            blur_weights(gaussian_kernel(size, params["sigma"]), length)
            for size, length in zip(self.kernel_size, (images.shape[-1], images.shape[-2]), strict=True)
        )
        return separable(images, rows, columns)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `gaussian_blur`."""
        return F.gaussian_blur_image(image, list(self.kernel_size), [params["sigma"]])


def gaussian_kernel(size: int, sigma: Tensor) -> Tensor:
    """Kernels as in torchvision: float32 (N, size), each with sum 1. Distances are along a diagonal, as there."""
    limit = (size - 1) / (2.0 * math.sqrt(2.0))
    distance = torch.linspace(-limit, limit, size, device=sigma.device)
    return torch.softmax(-((distance / sigma[:, None]) ** 2), dim=1)


def blend(values: Tensor, other: Tensor, ratio: Tensor, images: Tensor) -> Tensor:
    """Compute ratio * values + (1 - ratio) * other, clamped, and rounded down if the images are uint8.

    Args:
        values: floating (N, C, H, W).
        other: floating, broadcasts to `values`.
        ratio: (N,).
        images: where the values come from; their dtype decides.

    Returns:
        Floating, with the shape of `values`.
    """
    ratio = of_images(ratio.double())
    return mix(values, other, ratio.to(values.dtype), (1.0 - ratio).to(values.dtype), images)


def mix(values: Tensor, other: Tensor, mine: Tensor, others: Tensor, images: Tensor) -> Tensor:
    """As `blend`, with both shares given, (N, 1, 1, 1), in the dtype of `values`."""
    mixed = (values * mine + other * others).clamp(0, max_value(images))
    return mixed if images.is_floating_point() else mixed.floor()


def weighted_gray(values: Tensor) -> Tensor:
    """Luma of RGB images with torchvision's weights: floating (N, 1, H, W)."""
    red, green, blue = values.split(1, dim=-3)
    return red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]


def grayscale(values: Tensor, images: Tensor) -> Tensor:
    """Luma for contrast and saturation, as in torchvision: rounded down if the images are uint8; (N, 1, H, W)."""
    if values.shape[1] == 1:
        return values
    gray = weighted_gray(values)
    return gray if images.is_floating_point() else gray.floor()


def shift_hue(values: Tensor, shift: Tensor, images: Tensor) -> Tensor:
    """Shift the hue of RGB images.

    Converts hue to RGB without a table: v - v * s * clamp(min(k, 4 - k), 0, 1), k = (n + 6 h) mod 6, n = 5, 3, 1.

    Args:
        values: floating (N, 3, H, W), from 0 to the largest value of `images`.
        shift: (N,), in turns.
        images: where the values come from; their dtype decides.

    Returns:
        Floating, with the shape of `values`; whole numbers if the images are uint8.
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
    return (out * (256 - 1e-3)).floor().clamp(0, 255)  # as torchvision converts floating images to uint8


def sharpness_reference(values: Tensor, images: Tensor) -> Tensor:
    """The smoothed image that sharpness blends with; border pixels are not smoothed. Floating (N, C, H, W)."""
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
