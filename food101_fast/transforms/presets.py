"""The chains that recipes train with: from the loader's uint8 batches to normalized floating ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torchvision.transforms import InterpolationMode, v2

from food101_fast.transforms.auto import TrivialAugmentWide
from food101_fast.transforms.color import ColorJitter
from food101_fast.transforms.containers import RandomChoice
from food101_fast.transforms.erasing import RandomErasing
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop
from food101_fast.transforms.mixing import CutMix, MixUp
from food101_fast.transforms.normalize import IMAGENET, InputSpec, ToNormalized
from food101_fast.transforms.preset import Preset
from food101_fast.transforms.warp import RandomAffine, RandomRotation


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

    def crop(self, smallest: float) -> v2.Transform:
        """A random crop with at least this share of the image's area."""
        mode = InterpolationMode(self.inputs.interpolation)
        return RandomResizedCrop(self.image_size, scale=(smallest, 1.0), interpolation=mode)

    def normalized(self) -> v2.Transform:
        """The conversion to floating numbers."""
        return ToNormalized(self.dtype, self.inputs)


def _baseline(spec: TrainSpec) -> list[v2.Transform]:
    return [spec.crop(0.35), RandomHorizontalFlip(), spec.normalized()]


def _strong(spec: TrainSpec) -> list[v2.Transform]:
    bilinear = InterpolationMode.BILINEAR
    return [
        spec.crop(0.25),
        RandomHorizontalFlip(),
        RandomRotation(15, interpolation=bilinear),
        ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
        RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5, interpolation=bilinear),
        spec.normalized(),
        RandomErasing(p=0.25),
    ]


def _trivial(spec: TrainSpec) -> list[v2.Transform]:
    return [
        spec.crop(0.25),
        RandomHorizontalFlip(),
        TrivialAugmentWide(),
        spec.normalized(),
        RandomErasing(p=0.1),
        # The strengths of torchvision's own recipe for its second ImageNet weights.
        RandomChoice([MixUp(alpha=0.2, num_classes=spec.num_classes), CutMix(alpha=1.0, num_classes=spec.num_classes)]),
    ]


PRESETS: dict[str, Callable[[TrainSpec], list[v2.Transform]]] = {
    "baseline": _baseline,
    "strong": _strong,
    "trivial": _trivial,
}


def train_preset(
    name: str,
    image_size: int,
    *,
    num_classes: int | None = None,
    dtype: torch.dtype = torch.float32,
    inputs: InputSpec | None = None,
) -> Preset:
    """Build the training chain `name`, one of `PRESETS`.

    Args:
        name: `baseline` (crop and flip), `strong` (also rotation, color, affine, erasing), or `trivial` (also
            TrivialAugmentWide and erasing, and then MixUp or CutMix).
        image_size: height and width of the result, in pixels.
        num_classes: required by `trivial` if labels are indices.
        dtype: of the resulting images.
        inputs: the images that the backbone expects; by default torchvision's.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    spec = TrainSpec(image_size=image_size, num_classes=num_classes, dtype=dtype, inputs=inputs or IMAGENET)
    return Preset(PRESETS[name](spec))
