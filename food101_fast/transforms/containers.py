"""Transforms of transforms: each sample gets all of a list with some probability, or one chosen from it."""

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
    """Contains transforms; their parameters have names such as `0.angle`."""

    def _set_up(self, transforms: Iterable[Any], own_draws: int) -> None:
        for transform in transforms:
            if not isinstance(transform, PerSampleTransform):
                raise TypeError(
                    f"{type(self).__name__} takes transforms of food101_fast.transforms, which draw for each sample, "
                    f"and not {type(transform).__name__}; use it before or after this one"
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
        """Raise a TypeError: the images that a transform is applied to are computed together."""
        raise TypeError(f"{type(self).__name__} transforms batches")


def of_child(params: Params, index: int) -> Params:
    """The parameters of transform number `index`, under its own names."""
    prefix = f"{index}."
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _same_shape(out: Tensor, images: Tensor, container: PerSampleTransform) -> Tensor:
    if out.shape != images.shape:
        raise ValueError(
            f"{type(container).__name__} leaves some samples unchanged, so its transforms must not change the size "
            f"{tuple(images.shape[2:])} to {tuple(out.shape[2:])}"
        )
    return out


class RandomApply(_Container, v2.RandomApply):
    """Apply a list of transforms to each sample with probability `p`, as torchvision's transform does to one image.

    Args:
        transforms: from this package; they must not change the size.
        p: probability that a sample is changed.

    Parameters: `apply`, bool (N,), and those of the transforms, with the transform's index before the name.
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
        """Draw which samples are changed, and the parameters of the transforms."""
        return {APPLY: uniform[:, 0] < self.p, **self._params_of_children(uniform[:, 1:], height, width)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Apply one transform after the other."""
        out = images
        for index, child in self._children():
            out = child.transform(out, of_child(params, index))
        return _same_shape(out, images, self)

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        """Apply the transforms only to the images that are changed."""
        return subset(images, params[APPLY], params, self.batched, images)


class RandomChoice(_Container, v2.RandomChoice):
    """Apply one transform from a list to each sample, as torchvision's transform does to one image.

    All must return the same size. With MixUp and CutMix it is called with images and labels, as they are.

    Args:
        transforms: from this package.
        p: their probabilities, which are divided by their sum; None for equal ones.

    Parameters: `choice`, int64 (N,), and those of the transforms, with the transform's index before the name.
    """

    def __init__(self, transforms: Sequence[PerSampleTransform], p: Sequence[float] | None = None) -> None:
        v2.RandomChoice.__init__(self, transforms, p)
        self._set_up(transforms, own_draws=1)
        mixing = [child.is_mixing for _, child in self._children()]
        self.is_mixing = any(mixing)
        if self.is_mixing and not all(mixing):
            raise TypeError("RandomChoice takes either MixUp and CutMix, or transforms of images alone, not both")

    def forward(self, *inputs: Any) -> Any:
        """Transform the inputs; MixUp and CutMix take images (N, C, H, W) and labels, and return both, mixed."""
        if not self.is_mixing:
            return super().forward(*inputs)
        images, labels = inputs if len(inputs) == 2 else inputs[0]
        return self.mix(images, labels, self.make_params([images]))

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw the choices, and the parameters of the transforms."""
        bounds = list(accumulate(self.p))[:-1]  # the last transform takes the rest, whatever the sum is rounded to
        choice = torch.zeros_like(uniform[:, 0], dtype=torch.int64)
        for bound in bounds:
            choice = choice + (uniform[:, 0] >= bound)
        return {_CHOICE: choice, **self._params_of_children(uniform[:, 1:], height, width)}

    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Apply each transform to all images, and select the chosen one for each."""
        out: Tensor | None = None
        for index, child in self._children():
            changed = child.transform(images, of_child(params, index))
            out = changed if out is None else torch.where(of_images(params[_CHOICE] == index), changed, out)
        assert out is not None
        return out

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        """Apply each transform only to the images that chose it."""
        out: Tensor | None = None
        for index, child in self._children():
            out = subset(images, params[_CHOICE] == index, of_child(params, index), child.transform, out)
        assert out is not None
        return out

    def mix(self, images: Tensor, labels: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mix images and labels as `MixingTransform.mix`, each sample with the chosen transform."""
        out: tuple[Tensor, Tensor] | None = None
        for index, child in self._children():
            mixed = child.mix(images, labels, of_child(params, index))
            mine = params[_CHOICE] == index
            if out is None:
                out = mixed
            else:
                out = torch.where(of_images(mine), mixed[0], out[0]), torch.where(mine[:, None], mixed[1], out[1])
        assert out is not None
        return out[0].contiguous(memory_format=memory_format(images)), out[1]


def subset(images: Tensor, mine: Tensor, params: Params, transform: Any, out: Tensor | None) -> Tensor:
    """Transform the images where `mine` is set, and write them into `out`; on the CPU.

    Args:
        images: (N, C, H, W).
        mine: bool (N,).
        params: of all images.
        transform: takes images and their parameters.
        out: contains the other images; `images` itself is copied first. None if there are no others yet.

    Returns:
        `out`, or new memory: (N, C, h, w).
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
        raise ValueError(f"transforms to choose from must return images of one size, and these return {sizes}")
    out[chosen] = changed
    return out
