"""MixUp and CutMix, with a lambda, a rectangle and a partner for each sample."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
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
from food101_fast.transforms.quantiles import beta_quantiles, from_quantiles


class MixingTransform(PerSampleTransform):
    """Mixes each sample, and its label, with another sample of the batch."""

    is_mixing = True
    num_classes: int | None

    def _set_up(self, alpha: float) -> None:
        # Moved to the images' device when it is first needed there.
        self.register_buffer("_quantiles", beta_quantiles(alpha, alpha), persistent=False)

    def beta(self, uniform: Tensor) -> Tensor:
        """Convert uniform numbers to the distribution Beta(alpha, alpha), by its inverse distribution function."""
        if self._quantiles.device != uniform.device:
            self.to(uniform.device)
        return from_quantiles(self._quantiles, uniform)

    def mix(self, images: Tensor, labels: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mix images (N, C, H, W) and labels.

        Args:
            images: floating; for CutMix also uint8.
            labels: int64 (N,), or floating (N, num_classes).
            params: from `make_params`.

        Returns:
            Images with shape and dtype of `images`; labels, float32 (N, num_classes), each with sum 1.
        """
        return self.mix_images(images, params), mixed(self.soft(labels), self.share(params), params["partner"])

    def soft(self, labels: Tensor) -> Tensor:
        """Convert labels to shares of classes: float32 (N, num_classes)."""
        if labels.ndim == 2:
            return labels if labels.is_floating_point() else labels.float()
        if self.num_classes is None:
            raise ValueError("num_classes must be passed if the labels are index-based (1D)")
        return one_hot(labels, self.num_classes).float()

    @abstractmethod
    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """Mix the images alone: (N, C, H, W), in the dtype of `images`."""

    @abstractmethod
    def share(self, params: Params) -> Tensor:
        """The share of each sample that stays: float32 (N,)."""

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Mix images or labels; torchvision's `forward` calls this for both, and puts the labels into `params`."""
        if inpt is params["labels"]:
            return mixed(self.soft(inpt), self.share(params), params["partner"])
        self._check_image_or_video(inpt, batch_size=params["batch_size"])
        out = self.mix_images(inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.Image) else inpt, params)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.Image) else out

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Mix the images, see `mix_images`."""
        return self.mix_images(images, params)

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Raise a TypeError: one image cannot be mixed."""
        raise TypeError(f"{type(self).__name__} mixes the samples of a batch")


class MixUp(MixingTransform, v2.MixUp):
    """Blend each sample with another one, as `torchvision.transforms.v2.MixUp`, but with its own lambda for each.

    Called with images and labels. Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.

    Args:
        alpha: of the distribution Beta(alpha, alpha) of lambda.
        num_classes: number of classes, needed if the labels are indices.
        labels_getter: finds the labels among the inputs; by default the second input.

    Parameters: `lam`, float32 (N,), and `partner`, int64 (N,), the sample that each is mixed with: each sample
    is the partner of exactly one, never of itself if there is another one.
    """

    draws = 2
    forward = v2.MixUp.forward

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None, labels_getter: Any = "default") -> None:
        _check(alpha, num_classes)
        v2.MixUp.__init__(self, alpha=alpha, num_classes=num_classes, labels_getter=labels_getter)
        self._set_up(alpha)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw lambdas and partners."""
        return {"lam": self.beta(uniform[:, 0]), "partner": partners(uniform[:, 1])}

    def share(self, params: Params) -> Tensor:
        """The share of each sample that stays: lambda, float32 (N,)."""
        return params["lam"]

    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """Compute lam * image + (1 - lam) * partner."""
        if not images.is_floating_point():
            raise TypeError("MixUp needs floating images: mix after ToDtype")
        return mixed(images, params["lam"], params["partner"]).contiguous(memory_format=memory_format(images))


class CutMix(MixingTransform, v2.CutMix):
    """Paste a rectangle of another sample into each, as `torchvision.transforms.v2.CutMix`, but drawn for each sample.

    Called with images and labels. Source: Yun et al., "CutMix: Regularization strategy to train strong classifiers with
    localizable features", ICCV 2019.

    Args:
        alpha: of the distribution Beta(alpha, alpha) of the share that stays, before the border cuts rectangles.
        num_classes: number of classes, needed if the labels are indices.
        labels_getter: finds the labels among the inputs; by default the second input.

    Parameters: `box`, int64 (N, 4), left, upper, right and lower edge in pixels; `lam_adjusted`, float32 (N,), the
    share of a sample's own pixels; `partner` as for MixUp.
    """

    draws = 4
    forward = v2.CutMix.forward

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None, labels_getter: Any = "default") -> None:
        _check(alpha, num_classes)
        v2.CutMix.__init__(self, alpha=alpha, num_classes=num_classes, labels_getter=labels_getter)
        self._set_up(alpha)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw boxes and partners."""
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
        """The share of each sample that stays, with rectangles cut at the border: float32 (N,)."""
        return params["lam_adjusted"]

    def mix_images(self, images: Tensor, params: Params) -> Tensor:
        """Take the partner's pixels inside the box."""
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
    """Arrange the samples in a random circle; the partner of each is the next one: int64 (N,)."""
    circle = uniform.argsort()
    return torch.empty_like(circle).scatter_(0, circle, circle.roll(-1))


def mixed(values: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Compute share * values + (1 - share) * values[partner]: (N, ...)."""
    share = share.view(-1, *([1] * (values.ndim - 1))).to(values.dtype)
    return values * share + values[partner] * (1.0 - share)
