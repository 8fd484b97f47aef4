"""AugMix, with chains of operations and their shares drawn for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from food101_fast.transforms.base import Params, SampleParams, integer_below, memory_format, of_images, quantized
from food101_fast.transforms.grids import Fill, Interpolation
from food101_fast.transforms.operations import (
    IDENTITY,
    INDEX,
    OPERATIONS,
    AutomaticTransform,
    apply_operation,
    in_pixels,
    magnitude_table,
    negated,
)
from food101_fast.transforms.quantiles import beta_quantiles, from_quantiles

_DEEPEST = 3  # where the depth is drawn


class AugMix(AutomaticTransform, v2.AugMix):
    """Blend each sample with several random chains of operations on it, as torchvision's transform does one image.

    Source: Hendrycks et al., "AugMix: A simple data processing method to improve robustness and uncertainty", ICLR
    2020. (The paper's loss between three augmentations of an image is not included.)

    Args:
        severity: of the operations, from 1 to 10.
        mixture_width: number of chains.
        chain_depth: operations in each chain; if not positive, 1, 2 or 3, drawn for each chain.
        alpha: of the distributions Dirichlet(alpha, ...) of the chains' shares and Beta(alpha, alpha) of the sample's.
        all_ops: whether brightness, color, contrast and sharpness are among the operations.
        interpolation: nearest or bilinear.
        fill: value of the pixels outside the image; a number, or one for each channel; None for 0.

    Parameters: `transform_id`, int64 (N, mixture_width, depth), indices into `OPERATIONS`, Identity beyond a chain's
    depth; `magnitude`, float32, in the same shape; and `weights`, float32 (N, 1 + mixture_width), the share of the
    sample itself and of each chain, with sum 1.

    On a GPU all chains of a batch are computed together, so its memory is that of `mixture_width` batches.
    """

    def __init__(
        self,
        severity: int = 3,
        mixture_width: int = 3,
        chain_depth: int = -1,
        alpha: float = 1.0,
        all_ops: bool = True,
        interpolation: Interpolation = InterpolationMode.BILINEAR,
        fill: Fill = None,
    ) -> None:
        if mixture_width < 1:
            raise ValueError(f"mixture_width should be at least 1 and is {mixture_width}")
        if alpha <= 0:
            raise ValueError(f"alpha should be above 0 and is {alpha}")
        v2.AugMix.__init__(self, severity, mixture_width, chain_depth, alpha, all_ops, interpolation, fill)
        self._set_up()
        self._depth = chain_depth if chain_depth > 0 else _DEEPEST
        # Shares and depths, and for each operation its index, magnitude and sign.
        self.draws = mixture_width * (2 + 3 * self._depth)
        space = self._AUGMENTATION_SPACE if all_ops else self._PARTIAL_AUGMENTATION_SPACE
        self._among = tuple(name for name in OPERATIONS if name in space)
        # Moved to the images' device when they are first needed there.
        self.register_buffer("_indices", torch.tensor([INDEX[name] for name in self._among]), persistent=False)
        self.register_buffer("_magnitudes", magnitude_table(space, self._PARAMETER_MAX), persistent=False)
        # A Dirichlet distribution breaks a stick: each chain takes a share of what is left. The sample is the first.
        left = [1, *range(mixture_width - 1, 0, -1)]
        quantiles = torch.stack([beta_quantiles(alpha, alpha * others) for others in left])
        self.register_buffer("_quantiles", quantiles, persistent=False)

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the shares, and operations, magnitudes and signs of each chain."""
        if self._indices.device != uniform.device:
            self.to(uniform.device)
        count = self.mixture_width
        shares, depths = uniform[:, :count], uniform[:, count : 2 * count]
        operation, level, sign = uniform[:, 2 * count :].unflatten(1, (3, count, self._depth)).unbind(1)
        which = self._indices[integer_below(operation, len(self._among))]
        magnitude = self._magnitudes[which, integer_below(level, self.severity)]
        magnitude = negated(which, in_pixels(which, magnitude, height, width), sign)
        if self.chain_depth <= 0:
            depth = 1 + integer_below(depths, _DEEPEST)
            applied = torch.arange(_DEEPEST, device=uniform.device) < depth[..., None]
            which, magnitude = torch.where(applied, which, IDENTITY), torch.where(applied, magnitude, 0.0)
        return {"transform_id": which, "magnitude": magnitude, "weights": self._weights(shares)}

    def _weights(self, uniform: Tensor) -> Tensor:
        """The share of the sample and of each chain: float32 (N, 1 + mixture_width)."""
        left, weights = torch.ones_like(uniform[:, 0]), []
        for quantiles, number in zip(self._quantiles.unbind(0), uniform.unbind(1), strict=True):
            weights.append(left * from_quantiles(quantiles, number))
            left = left - weights[-1]
        return torch.stack([*weights, left], dim=1)

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Compute all chains of all images together; each step computes all operations, and selects."""
        count = self.mixture_width
        chains = images.repeat(count, 1, 1, 1).contiguous(memory_format=memory_format(images))
        which, magnitude = (params[name].transpose(0, 1).flatten(0, 1) for name in ("transform_id", "magnitude"))
        for step in range(self._depth):
            chains = apply_operation(chains, which[:, step], magnitude[:, step], self._mode, self.fill, self._among)
        return _mixed(images, chains.unflatten(0, (count, -1)).unbind(0), params["weights"])

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Apply torchvision's operations, and mix as torchvision does."""
        indices, magnitudes = params["transform_id"].tolist(), params["magnitude"].tolist()
        chains = [self.in_sequence(image, *chain)[None] for chain in zip(indices, magnitudes, strict=True)]
        return _mixed(image[None], chains, torch.tensor([params["weights"]]))[0]


def _mixed(images: Tensor, chains: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum of images and chains, each (N, C, H, W), in their dtype; uint8 is rounded down, as there."""
    compute = torch.promote_types(images.dtype, torch.float32)
    total = images.to(compute) * of_images(weights[:, 0])
    for chain, weight in zip(chains, weights[:, 1:].unbind(1), strict=True):
        total = total + chain.to(compute) * of_images(weight)
    return quantized(total, images, rounded=False)
