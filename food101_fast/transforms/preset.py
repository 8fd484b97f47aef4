"""A chain of transforms over whole batches, in which each sample has draws of its own that depend on its id."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from food101_fast.transforms.base import Params, PerSampleTransform
from food101_fast.transforms.containers import RandomChoice
from food101_fast.transforms.geometry import RandomHorizontalFlip, RandomResizedCrop
from food101_fast.transforms.keyed import PER_BLOCK, blocks_of, uniform_of_blocks
from food101_fast.transforms.mixing import MixingTransform


class Preset(nn.Module):
    """A chain of transforms in which every draw is keyed by (seed, epoch, sample id, index of the transform).

    Called as `preset(images, seed=..., epoch=..., ids=...)`, or with labels as the second argument. A sample's
    augmentation is a pure function of the key: it does not depend on the batch, the rank or the device, and no
    generator state needs saving. (MixUp and CutMix mix samples of one batch, and so depend on the batch.)

    Attributes:
        needs_labels: whether labels are required, because they are mixed.
        is_random: whether ids are required, because something is drawn.
        observer: is told the index, the transform and the parameters of each draw; None for no observer.
    """

    _blocks: Tensor

    def __init__(self, transforms: list[v2.Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.needs_labels = any(getattr(transform, "is_mixing", False) for transform in transforms)
        self._columns: dict[int, slice] = {}  # for each index of a transform, the columns of its numbers
        blocks, first = [torch.empty(0, dtype=torch.int64)], 0
        for index, transform in enumerate(transforms):
            if isinstance(transform, PerSampleTransform):
                blocks.append(blocks_of(transform.draws, index))
                self._columns[index] = slice(first, first + transform.draws)
                first += PER_BLOCK * len(blocks[-1])
        self.register_buffer("_blocks", torch.cat(blocks), persistent=False)
        self.is_random = bool(self._columns)
        self.observer: Callable[[int, PerSampleTransform, Params], None] | None = None

    @overload
    def forward(
        self, images: Tensor, labels: None = None, *, seed: int = 0, epoch: int | Tensor = 0, ids: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, images: Tensor, labels: Tensor, *, seed: int = 0, epoch: int | Tensor = 0, ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        seed: int = 0,
        epoch: int | Tensor = 0,
        ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Transform a batch.

        Args:
            images: uint8 (N, 3, H, W), any memory format.
            labels: int64 (N,), or floating (N, classes).
            seed: the run's seed.
            epoch: epoch number; in a compiled graph use a tensor () on the images' device, to avoid recompiling.
            ids: int64 (N,), global sample ids, on the images' device; required if anything is random.

        Returns:
            Normalized floating images (N, 3, h, w), in the memory format of `images`; and the labels if they were
            given, floating (N, classes) if they were mixed.

        Raises:
            ValueError: labels or ids are missing or do not match the images, or the seed is out of its range.
        """
        self._check(images, labels, seed, ids)
        uniform = None if ids is None else self._uniform(ids, seed, epoch)

        def params_of(index: int, transform: PerSampleTransform) -> Params:
            assert uniform is not None
            params = transform.params_from(uniform[:, self._columns[index]], images.shape[-2], images.shape[-1])
            if self.observer is not None:
                self.observer(index, transform, params)
            return params

        flip_is_done = False
        following = [*self.transforms[1:], None]
        for index, (transform, after) in enumerate(zip(self.transforms, following, strict=True)):
            if flip_is_done:
                flip_is_done = False
            elif isinstance(transform, RandomResizedCrop) and isinstance(after, RandomHorizontalFlip):
                flip = params_of(index + 1, after)["apply"]
                images = transform.transform_and_flip(images, params_of(index, transform), flip)
                flip_is_done = True
            # A tuple, since torch 2.9 can't compile a union of types.
            elif isinstance(transform, (MixingTransform, RandomChoice)) and transform.is_mixing:
                assert labels is not None
                images, labels = transform.mix(images, labels, params_of(index, transform))
            elif isinstance(transform, PerSampleTransform):
                images = transform.transform(images, params_of(index, transform))
            else:
                images = transform(images)
        return images if labels is None else (images, labels)

    def _uniform(self, ids: Tensor, seed: int, epoch: int | Tensor) -> Tensor | None:
        """The numbers of all transforms, in columns; from a single call of Philox, which takes 120 kernel launches."""
        if not self.is_random:
            return None
        if self._blocks.device != ids.device:
            self.to(ids.device)
        return uniform_of_blocks(ids, self._blocks, seed=seed, epoch=epoch)

    def _check(self, images: Tensor, labels: Tensor | None, seed: int, ids: Tensor | None) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise ValueError("a preset needs a batch of images, a tensor (N, C, H, W)")
        if self.needs_labels and labels is None:
            raise ValueError("this preset mixes images and their labels; pass the labels, too")
        if labels is not None and labels.shape[0] != images.shape[0]:
            raise ValueError(f"there are {labels.shape[0]} labels and {images.shape[0]} images")
        if not self.is_random:
            return
        if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != images.shape[:1]:
            raise ValueError(
                f"ids should be an int64 tensor with a number for each of the {images.shape[0]} images; pass "
                "ids=batch.draws"
            )
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed should be at least 0 and below 2**64 and is {seed}")
