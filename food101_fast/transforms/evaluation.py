"""How evaluation sees a stored image: resized, cropped in its center, normalized; nothing is random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision.transforms import v2

from food101_fast.transforms.normalize import IMAGENET, InputSpec, ToNormalized
from food101_fast.transforms.preset import Preset
from food101_fast.transforms.resize import SquareResize

# The share of the resized image that evaluation crops, as in torchvision's and timm's evaluation: 224 of 256 pixels.
_CROP_SHARE = 0.875


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """How a square stored image is resized and cropped before a model sees it in evaluation."""

    resize: int
    """Height and width after resizing, in pixels."""
    crop: int
    """Height and width of the central crop, which the model sees, in pixels."""
    inputs: InputSpec = IMAGENET
    """Interpolation and normalization that the backbone expects."""

    @classmethod
    def of(cls, image_size: int, stored_size: int, inputs: InputSpec | None = None) -> EvalSpec:
        """The spec for a model and its shards.

        Args:
            image_size: height and width that the model sees, in pixels.
            stored_size: height and width of the images in the shards, in pixels. If cropping would need enlarged
                images, the whole image is resized instead.
            inputs: the images that the backbone expects; by default torchvision's.
        """
        resize = round(image_size / _CROP_SHARE)
        resize = image_size if resize > stored_size else resize
        return cls(resize=resize, crop=image_size, inputs=inputs or IMAGENET)

    def preset(self, *, dtype: torch.dtype = torch.float32) -> Preset:
        """Resize, central crop and normalization, with nothing random.

        Args:
            dtype: of the images that come out.
        """
        return Preset(
            [
                SquareResize(self.resize, self.inputs.interpolation),
                v2.CenterCrop(self.crop),
                ToNormalized(dtype, self.inputs),
            ]
        )


def eval_preset(
    image_size: int, stored_size: int, *, dtype: torch.dtype = torch.float32, inputs: InputSpec | None = None
) -> Preset:
    """Resize and central crop, with nothing random: `EvalSpec.of(image_size, stored_size, inputs).preset(dtype=dtype)`.

    Args:
        image_size: height and width that the model sees, in pixels.
        stored_size: height and width of the images in the shards, in pixels.
        dtype: of the images that come out.
        inputs: the images that the backbone expects; by default torchvision's.
    """
    return EvalSpec.of(image_size, stored_size, inputs).preset(dtype=dtype)
