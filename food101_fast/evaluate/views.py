"""Test-time augmentation: several views of each image, whose probabilities are averaged."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from food101_fast.errors import UserError
from food101_fast.runs.evaluation import row_blocks
from food101_fast.transforms import EvalSpec, Preset

Tta = Literal["none", "flip", "crops"]


def views(tta: Tta, spec: EvalSpec) -> list[Preset]:
    """Presets for the views of each image.

    Args:
        tta: `none`, the central crop; `flip`, also mirrored; `crops`, the center and the four corners, like
            `torchvision.transforms.v2.FiveCrop`.
        spec: how an image is resized, and how large crops are.

    Raises:
        UserError: the resized image is not larger than a crop, so that all crops would be equal.
    """
    central = spec.preset()
    if tta == "none":
        return [central]
    resize, crop, *ending = central.transforms
    if tta == "flip":
        return [central, Preset([resize, crop, v2.RandomHorizontalFlip(p=1.0), *ending])]
    furthest = spec.resize - spec.crop
    if not furthest:
        raise UserError(
            f"--tta crops: the stored images are too small for different crops of {spec.crop} px; use --tta flip, or "
            "larger shards"
        )

    def corner(top: int, left: int) -> v2.Transform:
        return v2.Lambda(lambda image: functional.crop(image, top, left, spec.crop, spec.crop))

    corners = [corner(top, left) for top in (0, furthest) for left in (0, furthest)]
    return [central, *(Preset([resize, at, *ending]) for at in corners)]


def averaged(logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of the averaged probabilities: logarithms of the means.

    Args:
        logits: of each view or run, float32 (N, classes).

    Returns:
        float32 (N, classes); of a single one its own logits.
    """
    if len(logits) == 1:
        return logits[0]
    mean = np.empty_like(logits[0])
    for rows in row_blocks(mean, len(logits)):
        logs = np.stack([log_softmax(one[rows].astype(np.float64), axis=1) for one in logits])
        mean[rows] = logsumexp(logs, axis=0) - np.log(len(logits))
    return mean
