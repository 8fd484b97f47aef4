"""Test-time augmentation: several views of each image, whose probabilities are averaged."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from food101_fast.errors import UserError
from food101_fast.transforms import Preset, eval_preset

Tta = Literal["none", "flip", "crops"]


def views(tta: Tta, image_size: int, stored_size: int) -> list[Preset]:
    """The ways in which evaluation looks at each image.

    Args:
        tta: `none`, the central crop; `flip`, also mirrored; `crops`, the centre and the four corners, as
            `torchvision.transforms.v2.FiveCrop` has them.
        image_size: what the model sees, in pixels.
        stored_size: height and width of the images in the shards.

    Raises:
        UserError: the images are too small for crops to differ.
    """
    central = eval_preset(image_size, stored_size)
    if tta == "none":
        return [central]
    resize, crop, *ending = central.transforms
    if tta == "flip":
        return [central, Preset([resize, crop, v2.RandomHorizontalFlip(p=1.0), *ending])]
    room = int(cast(v2.Resize, resize).size[0]) - image_size
    if not room:
        raise UserError(
            f"--tta crops: images of {stored_size} px leave no room for crops of {image_size} px; use --tta flip, or "
            "larger shards"
        )

    def corner(top: int, left: int) -> v2.Transform:
        return v2.Lambda(lambda image: functional.crop(image, top, left, image_size, image_size))

    corners = [corner(top, left) for top in (0, room) for left in (0, room)]
    return [central, *(Preset([resize, at, *ending]) for at in corners)]


def averaged(logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits whose probabilities are the means of those of several, each (N, classes): the logarithms of the means."""
    if len(logits) == 1:
        return logits[0]
    logs = np.stack([log_softmax(part.astype(np.float64), axis=1) for part in logits])
    return np.asarray(logsumexp(logs, axis=0) - np.log(len(logits)), np.float32)
