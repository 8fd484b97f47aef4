"""The chains that recipes train with: from the loader's uint8 batches to normalized floating ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from food101_fast.transforms.augmix import AugMix
from food101_fast.transforms.auto import AutoAugment, RandAugment, TrivialAugmentWide
from food101_fast.transforms.base import PerSampleTransform
from food101_fast.transforms.color import ColorJitter
from food101_fast.transforms.containers import RandomChoice
from food101_fast.transforms.erasing import RandomErasing
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop
from food101_fast.transforms.mixing import CutMix, MixUp
from food101_fast.transforms.normalize import IMAGENET, InputSpec, ToNormalized
from food101_fast.transforms.preset import Preset
from food101_fast.transforms.warp import RandomAffine, RandomRotation

_BILINEAR = InterpolationMode.BILINEAR


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """What a training chain should give."""

    image_size: int
    """Height and width of the result, in pixels."""
    num_classes: int | None = None
    """Required by presets that mix images, if labels are indices."""
    dtype: torch.dtype = torch.float32
    """Of the images that come out."""
    inputs: InputSpec = IMAGENET
    """The images that the backbone expects."""
    mixup_alpha: float | None = None
    """Of Beta(alpha, alpha), for MixUp; 0 for no MixUp, None for what the preset has."""
    cutmix_alpha: float | None = None
    """Of Beta(alpha, alpha), for CutMix; 0 for no CutMix, None for what the preset has."""
    erasing: float | None = None
    """Probability that a rectangle of an image is erased; None for what the preset has."""

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha", "erasing"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} should be at least 0 and is {value}")
        if self.erasing is not None and self.erasing > 1:
            raise ValueError(f"erasing should be at most 1 and is {self.erasing}")

    def crop(self, smallest: float) -> v2.Transform:
        """A random crop with at least this share of the image's area."""
        mode = InterpolationMode(self.inputs.interpolation)
        return RandomResizedCrop(self.image_size, scale=(smallest, 1.0), interpolation=mode)

    def normalized(self, *, erasing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0) -> list[v2.Transform]:
        """The end of a chain: conversion to floating numbers, then erasing, then MixUp or CutMix.

        With both, each sample gets one of them, with equal probability, as timm and torchvision choose for each batch.

        Args:
            erasing: the preset's own probability.
            mixup: the preset's own alpha; 0 for none.
            cutmix: the preset's own alpha; 0 for none.
        """
        erasing = erasing if self.erasing is None else self.erasing
        mixup = mixup if self.mixup_alpha is None else self.mixup_alpha
        cutmix = cutmix if self.cutmix_alpha is None else self.cutmix_alpha
        end: list[v2.Transform] = [ToNormalized(self.dtype, self.inputs)]
        if erasing:
            end.append(RandomErasing(p=erasing))
        mixing: list[PerSampleTransform] = []
        if mixup:
            mixing.append(MixUp(alpha=mixup, num_classes=self.num_classes))
        if cutmix:
            mixing.append(CutMix(alpha=cutmix, num_classes=self.num_classes))
        return [*end, RandomChoice(mixing)] if len(mixing) > 1 else [*end, *mixing]


def _baseline(spec: TrainSpec) -> list[v2.Transform]:
    return [spec.crop(0.35), RandomHorizontalFlip(), *spec.normalized()]


def _strong(spec: TrainSpec) -> list[v2.Transform]:
    return [
        spec.crop(0.25),
        RandomHorizontalFlip(),
        RandomRotation(15, interpolation=_BILINEAR),
        ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5, interpolation=_BILINEAR),
        *spec.normalized(erasing=0.25),
    ]


def _trivial(spec: TrainSpec) -> list[v2.Transform]:
    """With the strengths of torchvision's own recipe for its second ImageNet weights."""
    end = spec.normalized(erasing=0.1, mixup=0.2, cutmix=1.0)
    return [spec.crop(0.25), RandomHorizontalFlip(), TrivialAugmentWide(), *end]


def _randaugment(spec: TrainSpec) -> list[v2.Transform]:
    """As torchvision's recipe for ViT-B/16 (references/classification, `--auto-augment ra`).

    timm's `rand-m9` has the same number and magnitude of operations; DeiT has MixUp with alpha 0.8 and erasing with
    probability 0.25 besides.
    """
    automatic = RandAugment(num_ops=2, magnitude=9, interpolation=_BILINEAR)
    return [spec.crop(0.25), RandomHorizontalFlip(), automatic, *spec.normalized(mixup=0.2, cutmix=1.0)]


def _autoaugment(spec: TrainSpec) -> list[v2.Transform]:
    """As torchvision's recipe for MobileNetV3 (references/classification, `--auto-augment imagenet`)."""
    automatic = AutoAugment(AutoAugmentPolicy.IMAGENET, interpolation=_BILINEAR)
    return [spec.crop(0.25), RandomHorizontalFlip(), automatic, *spec.normalized(erasing=0.2)]


def _augmix(spec: TrainSpec) -> list[v2.Transform]:
    """As torchvision's references (`--auto-augment augmix`) and timm's `augmix-m3-w3`: three chains, severity 3.

    Those are the numbers of the paper (Hendrycks et al., 2020), which adds neither erasing nor MixUp.
    """
    automatic = AugMix(severity=3, mixture_width=3, interpolation=_BILINEAR)
    return [spec.crop(0.25), RandomHorizontalFlip(), automatic, *spec.normalized()]


PRESETS: dict[str, Callable[[TrainSpec], list[v2.Transform]]] = {
    "baseline": _baseline,
    "strong": _strong,
    "trivial": _trivial,
    "randaugment": _randaugment,
    "autoaugment": _autoaugment,
    "augmix": _augmix,
}


def train_preset(
    name: str,
    image_size: int,
    *,
    num_classes: int | None = None,
    dtype: torch.dtype = torch.float32,
    inputs: InputSpec | None = None,
    mixup_alpha: float | None = None,
    cutmix_alpha: float | None = None,
    erasing: float | None = None,
) -> Preset:
    """Build the training chain `name`, one of `PRESETS`.

    Args:
        name: `baseline` (crop and flip), `strong` (also rotation, color, affine, erasing), `trivial` (also
            TrivialAugmentWide and erasing, and then MixUp or CutMix), `randaugment` (also RandAugment, and then MixUp
            or CutMix), `autoaugment` (also AutoAugment and erasing), or `augmix` (also AugMix).
        image_size: height and width of the result, in pixels.
        num_classes: required for MixUp and CutMix if labels are indices.
        dtype: of the resulting images.
        inputs: the images that the backbone expects; by default torchvision's.
        mixup_alpha: of Beta(alpha, alpha), for MixUp; 0 for no MixUp, None for what the preset has.
        cutmix_alpha: the same for CutMix. With both, each sample gets one of them.
        erasing: probability that a rectangle of an image is erased; None for what the preset has.

    Raises:
        ValueError: there is no such preset, or a number is out of its range.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    spec = TrainSpec(
        image_size=image_size,
        num_classes=num_classes,
        dtype=dtype,
        inputs=inputs or IMAGENET,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        erasing=erasing,
    )
    return Preset(PRESETS[name](spec))
