"""Erasing a rectangle of each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from food101_fast.transforms.base import (
    APPLY,
    TRIES,
    Params,
    PerSampleTransform,
    SampleParams,
    first_fitting,
    integer_below,
    of_images,
    tried_sides,
)
from food101_fast.transforms.keyed import normal_noise

_KEY = "v_key"


class RandomErasing(PerSampleTransform, v2.RandomErasing):
    """Erase a rectangle of each sample with probability `p`, as `torchvision.transforms.v2.RandomErasing` of one image.

    The same distribution as there: the first of ten tries that fits is erased, or else nothing.

    Args:
        p: probability that a sample is changed.
        scale: range of the erased share of the image.
        ratio: range of the rectangle's height over its width.
        value: of the erased pixels: a number, one for each channel, or "random" for normal noise in every pixel,
            which needs floating images.
        inplace: must be False.

    Parameters: `i`, `j`, `h`, `w`, int64 (N,), in pixels; `apply`, bool (N,); and `v`, float32 (N, C or 1, 1, 1),
    or, for noise, `v_key`, int64 (N,), which decides the noise of each pixel.
    """

    draws = 2 * TRIES + 5

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0.0,
        inplace: bool = False,
    ) -> None:
        if inplace:
            raise ValueError("inplace should be False")
        v2.RandomErasing.__init__(self, p, scale, ratio, value, inplace)
        self.is_cheap = self.value is not None  # noise is not

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the rectangles, what fills them, and which samples are changed."""
        h, w = tried_sides(uniform, height * width, self.scale, self.ratio)
        fits = (h < height) & (w < width)
        h, w = first_fitting(fits, h, height), first_fitting(fits, w, width)
        i, j, coin, *halves = uniform[:, 2 * TRIES :].unbind(1)
        params = {
            "i": integer_below(i, height - h + 1),
            "j": integer_below(j, width - w + 1),
            "h": h,
            "w": w,
            APPLY: fits.any(dim=1) & (coin < self.p),
        }
        if self.value is None:
            high, low = (integer_below(half, 1 << 24) for half in halves)
            params[_KEY] = (high << 24) | low
        else:
            filling = torch.stack([torch.full((), value, device=uniform.device) for value in self.value])
            params["v"] = filling[None, :, None, None].expand(len(uniform), -1, -1, -1)
        return params

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Erase the rectangle of every image."""
        y = torch.arange(images.shape[-2], device=images.device)[:, None]
        x = torch.arange(images.shape[-1], device=images.device)
        top, left, height, width = (of_images(params[name]) for name in "ijhw")
        erased = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        return torch.where(erased, self._filling(images, params).to(images.dtype), images)

    def _filling(self, images: Tensor, params: Params) -> Tensor:
        if _KEY not in params:
            if params["v"].shape[1] not in (1, images.shape[1]):
                raise ValueError(f"value has {params['v'].shape[1]} numbers and the images {images.shape[1]} channels")
            return params["v"]
        if not images.is_floating_point():
            raise ValueError("value='random' is normal noise, which needs floating images: erase after Normalize")
        return normal_noise(params[_KEY], tuple(images.shape[1:]))

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's `erase`."""
        i, j, h, w = (params[name] for name in "ijhw")
        per_sample = {name: torch.as_tensor(params[name])[None] for name in ("v", _KEY) if name in params}
        filling = self._filling(image[None], per_sample)[0]
        if _KEY in params:
            filling = filling[:, i : i + h, j : j + w]
        return F.erase_image(image, i, j, h, w, filling)
