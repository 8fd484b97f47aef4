"""What every per-sample transform shares: parameters are (N,) tensors made from (N, draws) uniform numbers.

Standalone, the numbers come from torch's own generator of the images' device, as with any v2 transform. In a run, the
preset makes them with `keyed_uniform`. The rest of a transform can't tell the difference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

Params = dict[str, Tensor]


class PerSampleTransform(v2.Transform, ABC):
    """A v2 transform that draws its parameters for each sample of a batch on its own.

    Takes images (N, C, H, W), uint8 or floating, in any memory format, on any device. Labels and other inputs pass
    through as with torchvision's transforms; boxes, masks, videos and PIL images are refused, since one draw per
    sample is defined for batches of images only.

    Attributes:
        draws: how many uniform numbers the parameters of one sample are made from.
    """

    draws: int
    _transformed_types = (torch.Tensor,)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse inputs that are not a batch of images, with a TypeError or ValueError that says which."""
        for value in flat_inputs:
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, tv_tensors.Image):
                raise TypeError(f"{type(self).__name__} transforms images and labels, not {type(value).__name__}")
        images = [v for v, ours in zip(flat_inputs, self._needs_transform_list(flat_inputs), strict=True) if ours]
        if not images:
            raise TypeError(f"{type(self).__name__} needs a tensor of images (N, C, H, W)")
        if images[0].ndim != 4:
            raise ValueError(
                f"{type(self).__name__} needs a batch (N, C, H, W) and got the shape {tuple(images[0].shape)}"
            )

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw parameters for the first input: a dict of (N,) tensors on its device, under torchvision's names."""
        images = flat_inputs[0]
        uniform = torch.rand(images.shape[0], self.draws, device=images.device)
        return self.params_from(uniform, images.shape[-2], images.shape[-1])

    @abstractmethod
    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Turn uniform numbers into parameters.

        Args:
            uniform: float32 (N, draws) in [0, 1).
            height: of the images, in pixels.
            width: of the images, in pixels.

        Returns:
            A dict of (N,) tensors on the device of `uniform`.
        """
