"""torchvision.transforms.v2 for whole batches, with one draw per sample; usable without the rest of the package.

`Resize` and `CenterCrop` are torchvision's own: without randomness they are right for a batch as they stand.
"""

from torchvision.transforms.v2 import CenterCrop, Resize

from food101_fast.transforms.base import PerSampleTransform
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop
from food101_fast.transforms.presets import PRESETS, Preset, eval_preset, train_preset

__all__ = [
    "PRESETS",
    "CenterCrop",
    "PerSampleTransform",
    "Preset",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "Resize",
    "eval_preset",
    "train_preset",
]
