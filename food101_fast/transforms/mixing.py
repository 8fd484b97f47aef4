"""MixUp and CutMix with one lambda, one rectangle and one partner for each sample."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision import tv_tensors
from torchvision.transforms import v2

from food101_fast.transforms.base import (
    Params,
    PerSampleTransform,
    SampleParams,
    integer_below,
    memory_format,
    of_images,
)

_QUANTILES = 4097  # the distribution is off by less than half of 1 / 4096 anywhere


class MixingTransform(PerSampleTransform):
    """What mixes each sample with another one of its batch, and its label too."""

    is_mixing = True
    num_classes: int | None

    def _set_up(self, alpha: float) -> None:
        quantiles = betaincinv(alpha, alpha, np.linspace(0.0, 1.0, _QUANTILES))
        # Moved to the images' device once, when it is first needed there.
        self.register_buffer("_quantiles", torch.from_numpy(quantiles).float(), persistent=False)

    def beta(self, uniform: Tensor) -> Tensor:
        """Numbers of the distribution Beta(alpha, alpha), from uniform ones, by the inverse of its function."""
        if self._quantiles.device != uniform.device:
            self.to(uniform.device)
        position = uniform * (_QUANTILES - 1)
        below = position.long().clamp(max=_QUANTILES - 2)
        low, high = self._quantiles[below], self._quantiles[below + 1]
        return low + (high - low) * (position - below)

    def mix(self, images: Tensor, labels: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mix images (N, C, H, W) and labels.

        Args:
            images: floating; for CutMix also uint8.
            labels: int64 (N,), or floating (N, num_classes).
            params: of `make_params`.

        Returns:
            Images like `images`, and labels as float32 (N, num_classes), each adding up to 1.
        """
        return self.mix_images(images, params), mixed(self.soft(labels), self.share(params), params["partner"])

    def soft(self, labels: Tensor) -> Tensor:
        """Labels as shares of classes: float32 (N, num_classes)."""
        if labels.ndim == 2:
            return labels if labels.is_floating_point() else labels.float()
        if self.num_classes is None:
            raise ValueError("num_classes must be passed if the labels are index-based (1D)")
        return one_hot(labels, self.num_classes).float()

    @abstractmethod
    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """The images alone."""

    @abstractmethod
    def share(self, params: Params) -> Tensor:
        """How much of each sample is its own: float32 (N,)."""

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Called by torchvision's `forward` for the images and for the labels, which are among the parameters."""
        if inpt is params["labels"]:
            return mixed(self.soft(inpt), self.share(params), params["partner"])
        self._check_image_or_video(inpt, batch_size=params["batch_size"])
        out = self.mix_images(inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.Image) else inpt, params)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.Image) else out

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """See `mix_images`."""
        return self.mix_images(images, params)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """There is nothing to mix one image with."""
        raise TypeError(f"{type(self).__name__} mixes the samples of a batch")


class MixUp(MixingTransform, v2.MixUp):
    """Mix each sample with another one, as `torchvision.transforms.v2.MixUp`, but with a share of its own for each.

    Called with images and labels. Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.

    Args:
        alpha: of the distribution Beta(alpha, alpha) of the shares.
        num_classes: classes, needed if the labels are numbers.
        labels_getter: finds the labels among the inputs; by default the second input.

    Parameters made: `lam`, float32 (N,), and `partner`, int64 (N,), the sample that each is mixed with: never itself,
    if there is another one, and each sample once.
    """

    draws = 2
    forward = v2.MixUp.forward

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None, labels_getter: Any = "default") -> None:
        _check(alpha, num_classes)
        v2.MixUp.__init__(self, alpha=alpha, num_classes=num_classes, labels_getter=labels_getter)
        self._set_up(alpha)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        return {"lam": self.beta(uniform[:, 0]), "partner": partners(uniform[:, 1])}

    def share(self, params: Params) -> Tensor:
        """Lambda."""
        return params["lam"]

    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """lam * image + (1 - lam) * partner."""
        if not images.is_floating_point():
            raise TypeError("MixUp needs floating images: mix after ToDtype")
        return mixed(images, params["lam"], params["partner"]).contiguous(memory_format=memory_format(images))


class CutMix(MixingTransform, v2.CutMix):
    """Put a rectangle of another sample into each, as `torchvision.transforms.v2.CutMix`, but each one of its own.

    Called with images and labels. Source: Yun et al., "CutMix: Regularization strategy to train strong classifiers with
    localizable features", ICCV 2019.

    Args:
        alpha: of the distribution Beta(alpha, alpha) of the share that stays, before a rectangle is cut at the border.
        num_classes: classes, needed if the labels are numbers.
        labels_getter: finds the labels among the inputs; by default the second input.

    Parameters made: `box`, int64 (N, 4), left, upper, right and lower edge in pixels; `lam_adjusted`, float32 (N,), the
    share of a sample's own pixels; `partner` as of MixUp.
    """

    draws = 4
    forward = v2.CutMix.forward

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None, labels_getter: Any = "default") -> None:
        _check(alpha, num_classes)
        v2.CutMix.__init__(self, alpha=alpha, num_classes=num_classes, labels_getter=labels_getter)
        self._set_up(alpha)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        half = 0.5 * torch.sqrt(1.0 - self.beta(uniform[:, 0]))
        edges = []
        for column, size in ((2, width), (3, height)):
            center, reach = integer_below(uniform[:, column], size), (half * size).long()
            edges.append(((center - reach).clamp(min=0), (center + reach).clamp(max=size)))
        (x1, x2), (y1, y2) = edges
        return {
            "box": torch.stack([x1, y1, x2, y2], dim=1),
            "lam_adjusted": 1.0 - (x2 - x1) * (y2 - y1) / (width * height),
            "partner": partners(uniform[:, 1]),
        }

    def share(self, params: Params) -> Tensor:
        """Lambda, adjusted to the rectangle that was cut at the border."""
        return params["lam_adjusted"]

    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """The partner's pixels inside the box."""
        x1, y1, x2, y2 = (of_images(edge) for edge in params["box"].unbind(1))
        y = torch.arange(images.shape[-2], device=images.device)[:, None]
        x = torch.arange(images.shape[-1], device=images.device)
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        out = torch.where(inside, images[params["partner"]], images)
        return out.contiguous(memory_format=memory_format(images))


def _check(alpha: float, num_classes: int | None) -> None:
    if alpha <= 0:
        raise ValueError(f"alpha should be above 0 and is {alpha}")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes should be at least 1 and is {num_classes}")


def partners(uniform: Tensor) -> Tensor:
    """The samples in one random circle; each one's partner is the next: int64 (N,)."""
    circle = uniform.argsort()
    return torch.empty_like(circle).scatter_(0, circle, circle.roll(-1))


def mixed(values: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """share * values + (1 - share) * those of the partners: (N, ...)."""
    share = share.view(-1, *([1] * (values.ndim - 1))).to(values.dtype)
    return values * share + values[partner] * (1.0 - share)
