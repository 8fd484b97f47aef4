"""TrivialAugmentWide, RandAugment and AutoAugment, with operations and magnitudes drawn for each sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from food101_fast.transforms.base import Params, SampleParams, between, integer_below
from food101_fast.transforms.grids import Fill, Interpolation
from food101_fast.transforms.operations import (
    ALL_BUT_INVERT,
    IDENTITY,
    INDEX,
    OPERATIONS,
    AutomaticTransform,
    apply_operation,
    in_pixels,
    magnitude_table,
    negated,
    one_hot,
)

Ranges = dict[str, tuple[float, float]]
"""For each operation the magnitudes of the first and the last bin; those between are evenly spaced."""

_BINS = 10  # of the magnitudes in AutoAugment's policies


class _SequenceTransform(AutomaticTransform):
    """Applies operations that were drawn for each sample, one after the other."""

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Apply one operation of each sample after the other; each computes all that may occur, and selects."""
        drawn = zip(params["transform_id"].unbind(1), params["magnitude"].unbind(1), strict=True)
        for step, (which, magnitude) in enumerate(drawn):
            images = apply_operation(images, which, magnitude, self._mode, self.fill, self.among(step))
        return images

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's operations."""
        return self.in_sequence(image, params["transform_id"], params["magnitude"])

    def among(self, step: int) -> Collection[str]:
        """The operations that may occur as number `step`."""
        return ALL_BUT_INVERT


class _EvenTransform(_SequenceTransform):
    """Draws from 14 operations, each as likely as the others."""

    num_magnitude_bins: int

    @abstractmethod
    def ranges(self, height: int, width: int) -> Ranges:
        """Ranges of the magnitudes for images of this size."""

    def _drawn(self, operation: Tensor, position: Tensor, sign: Tensor, height: int, width: int) -> Params:
        """Compute parameters from uniform numbers.

        Args:
            operation: decides the operations, uniform (N, K).
            position: of the magnitudes, from 0 for the first bin to 1 for the last; (N, K).
            sign: decides the signs of the magnitudes, uniform (N, K).
            height: of the images, in pixels.
            width: of the images, in pixels.
        """
        which = integer_below(operation, len(ALL_BUT_INVERT))
        is_of = one_hot(which)
        magnitude = torch.zeros_like(operation)
        values: dict[tuple[float, float], Tensor] = {}  # several operations share a range
        for name, (low, high) in self.ranges(height, width).items():
            if (low, high) not in values:
                values[low, high] = between(position, low, high)
            value = values[low, high].round() if name == "Posterize" else values[low, high]
            magnitude = torch.where(is_of[..., INDEX[name]], value, magnitude)
        return {"transform_id": which, "magnitude": negated(which, magnitude, sign)}


class TrivialAugmentWide(_EvenTransform, v2.TrivialAugmentWide):
    """One random operation of random magnitude for each sample, as torchvision's transform does for one image.

    Source: Müller and Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", ICCV 2021.

    Args:
        num_magnitude_bins: number of different magnitudes.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, 1), an index into `OPERATIONS`, and `magnitude`, float32 (N, 1).
    """

    draws = 3

    def __init__(
        self,
        num_magnitude_bins: int = 31,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = None,
    ) -> None:
        if num_magnitude_bins < 2:
            raise ValueError(f"num_magnitude_bins should be at least 2 and is {num_magnitude_bins}")
        v2.TrivialAugmentWide.__init__(self, num_magnitude_bins, interpolation, fill)
        self._set_up()

    def ranges(self, height: int, width: int) -> Ranges:
        """The wide ranges in the paper's table."""
        return {
            **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.99)),
            **dict.fromkeys(("TranslateX", "TranslateY"), (0.0, 32.0)),
            "Rotate": (0.0, 135.0),
            "Posterize": (8.0, 2.0),
            "Solarize": (1.0, 0.0),
        }

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw an operation, a magnitude and a sign for each sample."""
        operation, magnitude, sign = uniform[:, 0:1], uniform[:, 1:2], uniform[:, 2:3]
        position = integer_below(magnitude, self.num_magnitude_bins) / (self.num_magnitude_bins - 1)
        return self._drawn(operation, position, sign, height, width)


class RandAugment(_EvenTransform, v2.RandAugment):
    """Several random operations of one magnitude for each sample, as torchvision's transform does for one image.

    Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS
    2020.

    Args:
        num_ops: number of operations for each sample.
        magnitude: of all operations, below `num_magnitude_bins`.
        num_magnitude_bins: number of different magnitudes.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, num_ops), indices into `OPERATIONS`, and `magnitude`, float32
    (N, num_ops).
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = None,
    ) -> None:
        if not 0 <= magnitude < num_magnitude_bins or num_magnitude_bins < 2:
            raise ValueError(
                f"magnitude should be at least 0 and below num_magnitude_bins, and is {magnitude} of "
                f"{num_magnitude_bins}"
            )
        v2.RandAugment.__init__(self, num_ops, magnitude, num_magnitude_bins, interpolation, fill)
        self.draws = 2 * num_ops
        self._set_up()

    def ranges(self, height: int, width: int) -> Ranges:
        """The ranges of the paper, as in torchvision."""
        return {
            **dict.fromkeys(("ShearX", "ShearY"), (0.0, 0.3)),
            "TranslateX": (0.0, 150.0 / 331.0 * width),
            "TranslateY": (0.0, 150.0 / 331.0 * height),
            "Rotate": (0.0, 30.0),
            **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.9)),
            "Posterize": (8.0, 4.0),
            "Solarize": (1.0, 0.0),
        }

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw operations and signs for each sample."""
        operation, sign = uniform[:, : self.num_ops], uniform[:, self.num_ops :]
        position = torch.full_like(operation, self.magnitude / (self.num_magnitude_bins - 1))
        return self._drawn(operation, position, sign, height, width)


class AutoAugment(_SequenceTransform, v2.AutoAugment):
    """A learned policy of two operations for each sample, as torchvision's transform draws one for one image.

    Source: Cubuk et al., "AutoAugment: Learning augmentation strategies from data", CVPR 2019.

    Args:
        policy: the data set that the 25 policies were learned on: IMAGENET, CIFAR10 or SVHN of `AutoAugmentPolicy`, or
            its name in lower case.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, 2), indices into `OPERATIONS`, and `magnitude`, float32 (N, 2). An operation
    of the policy that the sample does not get, by its probability, is Identity.
    """

    draws = 5

    def __init__(
        self,
        policy: v2.AutoAugmentPolicy | str = v2.AutoAugmentPolicy.IMAGENET,
        interpolation: Interpolation = InterpolationMode.NEAREST,
        fill: Fill = None,
    ) -> None:
        v2.AutoAugment.__init__(self, v2.AutoAugmentPolicy(policy), interpolation, fill)
        self._set_up()
        table = magnitude_table(self._AUGMENTATION_SPACE, _BINS)
        indices = torch.tensor([[INDEX[name] for name, _, _ in steps] for steps in self._policies])
        bins = torch.tensor([[number or 0 for _, _, number in steps] for steps in self._policies])
        # Moved to the images' device when they are first needed there.
        self.register_buffer("_indices", indices, persistent=False)
        self.register_buffer("_magnitudes", table[indices, bins], persistent=False)
        probabilities = torch.tensor([[probability for _, probability, _ in steps] for steps in self._policies])
        self.register_buffer("_probabilities", probabilities, persistent=False)
        self._among: Sequence[Collection[str]] = [
            tuple(name for name in OPERATIONS if INDEX[name] in indices[:, step]) for step in range(indices.shape[1])
        ]

    def among(self, step: int) -> Collection[str]:
        """The operations that the policies have as number `step`."""
        return self._among[step]

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw a policy for each sample, which of its operations are applied, and their signs."""
        if self._indices.device != uniform.device:
            self.to(uniform.device)
        policy = integer_below(uniform[:, 0], len(self._policies))
        which, magnitude = self._indices[policy], self._magnitudes[policy]
        magnitude = negated(which, in_pixels(which, magnitude, height, width), uniform[:, 3:5])
        applied = uniform[:, 1:3] < self._probabilities[policy]
        return {
            "transform_id": torch.where(applied, which, IDENTITY),
            "magnitude": torch.where(applied, magnitude, 0.0),
        }
