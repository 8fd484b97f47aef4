"""Crops and flips with one draw per sample and torchvision's pixels.

On the CPU a loop over torchvision's own kernel is fastest: three to four times the rate of the products below, for
uint8 from 192 to 160 px on two cores. On CUDA a crop and antialiased resize is two batched matrix products, one for
each axis, with the same triangle filter that torchvision's kernel uses. Both come from the same parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import Params, PerSampleTransform

_TRIES = 10  # as in torchvision's RandomResizedCrop


class RandomResizedCrop(PerSampleTransform):
    """A crop of random area and proportions for each sample, resized to `size` (antialiased, bilinear).

    The same distribution as `torchvision.transforms.v2.RandomResizedCrop`: the first of ten tries that fits, or
    the largest central crop of allowed proportions.

    Args:
        size: height and width of the output in pixels, one number for both or a pair.
        scale: lower and upper bound of the crop's area as a share of the image's.
        ratio: lower and upper bound of the crop's width over its height.

    Parameters made: `top`, `left`, `height`, `width`, int64 (N,), in pixels.
    """

    draws = 2 * _TRIES + 2

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        pair = (size, size) if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1)
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"size should be a number of pixels or a pair (h, w) and is {size!r}")
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"scale {scale} and ratio {ratio} should be (low, high) and positive")
        self.size = (pair[0], pair[1])
        self.scale = scale
        self.ratio = ratio

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class; the parameters name the crop in pixels."""
        low, high = self.scale
        area = height * width * (low + (high - low) * uniform[:, :_TRIES])
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = torch.exp(log_low + (log_high - log_low) * uniform[:, _TRIES : 2 * _TRIES])
        w = torch.round(torch.sqrt(area * aspect)).long()
        h = torch.round(torch.sqrt(area / aspect)).long()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        fallback_h, fallback_w = self._central_crop(height, width)
        any_fits = fits.any(dim=1)
        h = torch.where(any_fits, h.gather(1, first)[:, 0], fallback_h)
        w = torch.where(any_fits, w.gather(1, first)[:, 0], fallback_w)
        top = _integer_below(uniform[:, 2 * _TRIES], height - h + 1)
        left = _integer_below(uniform[:, 2 * _TRIES + 1], width - w + 1)
        top = torch.where(any_fits, top, (height - fallback_h) // 2)
        left = torch.where(any_fits, left, (width - fallback_w) // 2)
        return {"top": top, "left": left, "height": h, "width": w}

    def _central_crop(self, height: int, width: int) -> tuple[int, int]:
        if width / height < self.ratio[0]:
            return round(width / self.ratio[0]), width
        if width / height > self.ratio[1]:
            return height, round(height * self.ratio[1])
        return height, width

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Crop and resize image i by `params[...][i]`: (N, C, H, W) to (N, C, *size), dtype and memory format kept."""
        crop = resized_crop_loop if inpt.device.type == "cpu" else resized_crop_products
        return crop(inpt, params["top"], params["left"], params["height"], params["width"], self.size)


class RandomHorizontalFlip(PerSampleTransform):
    """Mirror each sample with probability `p`, as `torchvision.transforms.v2.RandomHorizontalFlip` does one image.

    Parameters made: `flip`, bool (N,).
    """

    draws = 1

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p should be between 0 and 1 and is {p}")
        self.p = p

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        return {"flip": uniform[:, 0] < self.p}

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Mirror the images whose `flip` is set; shape, dtype and memory format kept."""
        return torch.where(params["flip"][:, None, None, None], F.horizontal_flip(inpt), inpt)


def _integer_below(uniform: Tensor, bound: Tensor) -> Tensor:
    """floor(uniform * bound), which rounding could otherwise lift to the bound itself."""
    return torch.minimum((uniform * bound).long(), bound - 1)


def resized_crop_loop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]
) -> Tensor:
    """Crop and resize each image with torchvision's own kernel.

    Args:
        images: (N, C, H, W), uint8 or floating, on the CPU.
        top, left, height, width: int64 (N,), the crops in pixels.
        size: height and width of the output.

    Returns:
        (N, C, *size), dtype and memory format of `images`.
    """
    n, channels = images.shape[:2]
    out = torch.empty((n, channels, *size), dtype=images.dtype, memory_format=_memory_format(images))
    crops = zip(top.tolist(), left.tolist(), height.tolist(), width.tolist(), strict=True)
    for i, (t, l, h, w) in enumerate(crops):  # noqa: E741
        out[i] = F.resize(images[i, :, t : t + h, l : l + w], list(size), antialias=True)
    return out


def resized_crop_products(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]
) -> Tensor:
    """Crop and resize all images at once, as one matrix product for each axis.

    Arguments and result as in `resized_crop_loop`, on any device. uint8 images are multiplied in float16 on CUDA,
    with sums in float32, and in float32 elsewhere, then rounded as torchvision rounds.
    """
    floating = images.is_floating_point()
    compute = images.dtype if floating else torch.float16 if images.is_cuda else torch.float32
    rows = crop_resize_weights(top, height, images.shape[-2], size[0]).to(compute)
    columns = crop_resize_weights(left, width, images.shape[-1], size[1]).to(compute)
    # (N, 1, h, H) @ (N, C, H, W) @ (N, 1, W, w): columns first, since that shrinks what the second product reads.
    out = rows[:, None] @ (images.to(compute) @ columns[:, None].transpose(-1, -2))
    if not floating:
        out = out.round_().clamp_(0, 255).to(images.dtype)
    return out.contiguous(memory_format=_memory_format(images))


def crop_resize_weights(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """The matrices that crop `[start, start + length)` of an axis and resize it to `target`, antialiased and bilinear.

    The weights are torch's own for `interpolate(mode="bilinear", antialias=True)`: a triangle as wide as one output
    pixel where that is more than one input pixel, centred at half pixels, normalised over the pixels inside the crop.

    Args:
        start, length: int64 (N,), in pixels of the source axis.
        source: length of the source axis.
        target: length of the output axis.

    Returns:
        float32 (N, target, source); each row adds up to 1.
    """
    pixel = torch.arange(source, device=start.device)
    inside = pixel - start[:, None]
    scale = length.to(torch.float32)[:, None] / target
    centre = scale * (torch.arange(target, device=start.device) + 0.5)
    width = scale.clamp(min=1.0)
    distance = (inside[:, None, :] + 0.5 - centre[:, :, None]) / width[:, :, None]
    weights = (1 - distance.abs()).clamp(min=0)
    weights = weights * ((inside >= 0) & (inside < length[:, None]))[:, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


def _memory_format(images: Tensor) -> torch.memory_format:
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
