"""The chains that recipes train and evaluate with: uint8 batches from the loader in, normalised float batches out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from food101_fast.transforms.base import PerSampleTransform
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop
from food101_fast.transforms.keyed import keyed_uniform

# Of ImageNet's training images, as all of torchvision's pretrained classification weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# The share of the resized image that evaluation crops, as in torchvision's and timm's evaluation: 224 of 256 pixels.
_CROP_SHARE = 0.875


class Preset(nn.Module):
    """A chain of transforms in which every draw is keyed by (seed, epoch, sample id, the transform's place).

    Called as `preset(images, seed=..., epoch=..., ids=...)`. A sample's augmentation is then a pure function of the
    key: it does not depend on the batch, the rank or the device, and there is no generator state to save.
    """

    def __init__(self, transforms: list[v2.Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, images: Tensor, *, seed: int, epoch: int, ids: Tensor) -> Tensor:
        """Transform a batch.

        Args:
            images: uint8 (N, 3, H, W), any memory format.
            seed: the run's seed.
            epoch: epoch number.
            ids: int64 (N,), global sample ids, on the images' device.

        Returns:
            float32 (N, 3, h, w), normalised, in the memory format of `images`.
        """
        for place, transform in enumerate(self.transforms):
            if isinstance(transform, PerSampleTransform):
                uniform = keyed_uniform(ids, transform.draws, seed=seed, epoch=epoch, place=place)
                params = transform.params_from(uniform, images.shape[-2], images.shape[-1])
                images = transform.transform(images, params)
            else:
                images = transform(images)
        return images


def _normalised() -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD, inplace=True)]


def _baseline(image_size: int) -> list[v2.Transform]:
    return [RandomResizedCrop(image_size, scale=(0.35, 1.0)), RandomHorizontalFlip(), *_normalised()]


PRESETS: dict[str, Callable[[int], list[v2.Transform]]] = {"baseline": _baseline}


def train_preset(name: str, image_size: int) -> Preset:
    """The training chain `name`, one of `PRESETS`, for a model that sees `image_size` pixels."""
    return Preset(PRESETS[name](image_size))


def eval_preset(image_size: int, stored_size: int) -> Preset:
    """Resize and central crop, with nothing random.

    Args:
        image_size: what the model sees, in pixels.
        stored_size: height and width of the images in the shards. Where they are too small to crop from without
            enlarging, the whole image is resized.
    """
    resize = round(image_size / _CROP_SHARE)
    if resize > stored_size:
        resize = image_size
    return Preset([v2.Resize(resize), v2.CenterCrop(image_size), *_normalised()])
