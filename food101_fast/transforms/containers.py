"""Transforms of transforms: each sample tosses its own coin for the whole list, or picks its own from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from food101_fast.transforms.base import APPLY, Params, PerSampleTransform, SampleParams, memory_format, of_images

_CHOICE = "choice"


class _Container(PerSampleTransform):
    """Transforms with parameters of their own, which are kept under names such as `0.angle`."""

    def _set_up(self, transforms: Iterable[Any], own_draws: int) -> None:
        for transform in transforms:
            if not isinstance(transform, PerSampleTransform):
                raise TypeError(
                    f"{type(self).__name__} takes transforms of food101_fast.transforms, which draw for each sample, "
                    f"and not {type(transform).__name__}; put it beside this one"
                )
        self.transforms = nn.ModuleList(transforms)
        self.draws = own_draws + sum(child.draws for _, child in self._children())

    def _children(self) -> Iterator[tuple[int, Any]]:
        """Indices and transforms."""
        return enumerate(self.transforms)

    def _params_of_children(self, uniform: Tensor, height: int, width: int) -> Params:
        params: Params = {}
        start = 0
        for index, child in self._children():
            drawn = child.params_from(uniform[:, start : start + child.draws], height, width)
            params |= {f"{index}.{name}": value for name, value in drawn.items()}
            start += child.draws
        return params

    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Not one image, but those that a transform is applied to go together."""
        raise TypeError(f"{type(self).__name__} transforms batches")


def of_child(params: Params, index: int) -> Params:
    """The parameters of the transform at `index`, under its own names."""
    prefix = f"{index}."
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _same_shape(out: Tensor, images: Tensor, container: PerSampleTransform) -> Tensor:
    if out.shape != images.shape:
        raise ValueError(
            f"{type(container).__name__} leaves some samples as they are, so its transforms must not change the size "
            f"{tuple(images.shape[2:])} to {tuple(out.shape[2:])}"
        )
    return out


class RandomApply(_Container, v2.RandomApply):
    """Apply a list of transforms to each sample with probability `p`, as torchvision's does to one image.

    Args:
        transforms: of this package; they must not change the size.
        p: probability that a sample is changed.

    Parameters made: `apply`, bool (N,), and those of the transforms, with their indices before their names.
    """

    def __init__(self, transforms: Sequence[PerSampleTransform] | nn.ModuleList, p: float = 0.5) -> None:
        v2.RandomApply.__init__(self, transforms, p)
        self._set_up(transforms, own_draws=1)
        for _, child in self._children():
            if child.is_mixing:
                raise TypeError(
                    "RandomApply takes transforms of images alone, and not MixUp or CutMix, which mix labels"
                )

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        return {APPLY: uniform[:, 0] < self.p, **self._params_of_children(uniform[:, 1:], height, width)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """One transform after the other."""
        out = images
        for index, child in self._children():
            out = child.transform(out, of_child(params, index))
        return _same_shape(out, images, self)

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        return subset(images, params[APPLY], params, self.batched, images)


class RandomChoice(_Container, v2.RandomChoice):
    """Apply one transform out of a list to each sample, as torchvision's does to one image.

    All must give the same size. A list of MixUp and CutMix is called with images and labels, as they are.

    Args:
        transforms: of this package.
        p: their probabilities; None for equal ones. They are divided by their sum.

    Parameters made: `choice`, int64 (N,), and those of the transforms, with their indices before their names.
    """

    def __init__(self, transforms: Sequence[PerSampleTransform], p: Sequence[float] | None = None) -> None:
        v2.RandomChoice.__init__(self, transforms, p)
        self._set_up(transforms, own_draws=1)
        mixing = [child.is_mixing for _, child in self._children()]
        self.is_mixing = any(mixing)
        if self.is_mixing and not all(mixing):
            raise TypeError("RandomChoice takes either MixUp and CutMix, or transforms of images alone, not both")

    def forward(self, *inputs: Any) -> Any:
        """As of any transform; for MixUp and CutMix images (N, C, H, W) and labels give images and mixed labels."""
        if not self.is_mixing:
            return super().forward(*inputs)
        images, labels = inputs if len(inputs) == 2 else inputs[0]
        return self.mix(images, labels, self.make_params([images]))

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        bounds = list(accumulate(self.p))[:-1]  # above the last one lies the rest, whatever the sum was rounded to
        choice = torch.zeros_like(uniform[:, 0], dtype=torch.int64)
        for bound in bounds:
            choice = choice + (uniform[:, 0] >= bound)
        return {_CHOICE: choice, **self._params_of_children(uniform[:, 1:], height, width)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Each transform of all images, of which each image takes its own."""
        out: Tensor | None = None
        for index, child in self._children():
            changed = child.transform(images, of_child(params, index))
            out = changed if out is None else torch.where(of_images(params[_CHOICE] == index), changed, out)
        assert out is not None
        return out

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        out: Tensor | None = None
        for index, child in self._children():
            out = subset(images, params[_CHOICE] == index, of_child(params, index), child.transform, out)
        assert out is not None
        return out

    def mix(self, images: Tensor, labels: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """As `MixingTransform.mix`, each sample with its own choice."""
        out: tuple[Tensor, Tensor] | None = None
        for index, child in self._children():
            mixed = child.mix(images, labels, of_child(params, index))
            mine = params[_CHOICE] == index
            out = (
                mixed
                if out is None
                else (
                    torch.where(of_images(mine), mixed[0], out[0]),
                    torch.where(mine[:, None], mixed[1], out[1]),
                )
            )
        assert out is not None
        return out[0].contiguous(memory_format=memory_format(images)), out[1]


def subset(images: Tensor, mine: Tensor, params: Params, transform: Any, out: Tensor | None) -> Tensor:
    """Transform the images whose `mine`, bool (N,), is set, and put them into `out`; on the CPU.

    Args:
        images: (N, C, H, W).
        mine: bool (N,).
        params: of all images.
        transform: takes images and their parameters.
        out: what the others are; a copy is made of `images`. None if nothing is known of them yet.
    """
    chosen = mine.nonzero()[:, 0]
    if not len(chosen) and out is not None:
        return out.clone() if out is images else out
    changed = transform(images[chosen], {name: value[chosen] for name, value in params.items()})
    if out is None:
        shape = (len(images), *changed.shape[1:])
        out = torch.empty(shape, dtype=changed.dtype, memory_format=memory_format(images))
    elif out is images:
        out = images.clone()
    if changed.shape[1:] != out.shape[1:]:
        sizes = " and ".join(str(tuple(of.shape[2:])) for of in (out, changed))
        raise ValueError(f"transforms that samples choose from must give images of one size, and these give {sizes}")
    out[chosen] = changed
    return out
