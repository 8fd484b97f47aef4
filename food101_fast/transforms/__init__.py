"""torchvision.transforms.v2 for whole batches, with one draw per sample; usable without the rest of the package.

`Resize`, `CenterCrop` and `Pad` are torchvision's own: they are not random, and so already work for batches.
`AutoAugmentPolicy` names the policies of `AutoAugment`.

To add a transform, subclass `PerSampleTransform` in the module of its kind, export it here, and compare it with
torchvision's in `tests/transforms/cases.py`. Presets are chains of transforms, in `presets`.
"""

from torchvision.transforms.v2 import AutoAugmentPolicy, CenterCrop, Pad, Resize

from food101_fast.transforms.augmix import AugMix
from food101_fast.transforms.auto import AutoAugment, RandAugment, TrivialAugmentWide
from food101_fast.transforms.base import PerSampleTransform
from food101_fast.transforms.color import ColorJitter, GaussianBlur, RandomGrayscale
from food101_fast.transforms.containers import RandomApply, RandomChoice
from food101_fast.transforms.erasing import RandomErasing
from food101_fast.transforms.evaluation import EvalSpec, eval_preset
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop, RandomVerticalFlip
from food101_fast.transforms.mixing import CutMix, MixUp
from food101_fast.transforms.normalize import InputSpec
from food101_fast.transforms.preset import Preset
from food101_fast.transforms.presets import PRESETS, train_preset
from food101_fast.transforms.warp import RandomAffine, RandomPerspective, RandomRotation

__all__ = [
    "PRESETS",
    "AugMix",
    "AutoAugment",
    "AutoAugmentPolicy",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "EvalSpec",
    "GaussianBlur",
    "InputSpec",
    "MixUp",
    "Pad",
    "PerSampleTransform",
    "Preset",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "TrivialAugmentWide",
    "eval_preset",
    "train_preset",
]
