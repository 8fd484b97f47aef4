"""What every per-sample transform shares: parameters are (N, ...) tensors made from (N, draws) uniform numbers.

Standalone, the numbers come from torch's own generator of the images' device, as with any v2 transform. In a run, the
preset makes them with `keyed_uniform`. The rest of a transform can't tell the difference.

There are two ways through a batch, from the same parameters. On the CPU torchvision's own kernels run image by image,
in as many threads as `torch.get_num_threads()`: an image and all that is computed from it stay in the cache, and the
result is torchvision's to the bit. On other devices, and in a compiled graph, everything is computed for the whole
batch at once, in static shapes and without a look at any value on the host. On the CPU and with one thread that is
slower, by 1.2 to 12 times, for all but the warps, which would be up to twice as fast at once, and off by rounding.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from food101_fast.transforms.threads import for_each

Params = dict[str, Tensor]
"""Parameters of a batch: (N, ...) tensors, under torchvision's names."""
SampleParams = dict[str, Any]
"""Parameters of one sample, as torchvision's functionals take them: numbers, lists of numbers, or tensors."""

APPLY = "apply"
"""Name of the parameter, bool (N,), that says which images a transform with a probability changes."""


class PerSampleTransform(v2.Transform, ABC):
    """A v2 transform that draws its parameters for each sample of a batch on its own.

    Takes images (N, C, H, W), uint8 or floating, in any memory format, on any device. Labels and other inputs pass
    through as with torchvision's transforms; boxes, masks, videos and PIL images are refused, since one draw per
    sample is defined for batches of images only.

    Subclasses are also subclasses of torchvision's transform of the same name, which checks and keeps the arguments.

    Attributes:
        draws: how many uniform numbers the parameters of one sample are made from.
        is_mixing: whether it mixes samples of a batch, and their labels.
        is_cheap: whether one image takes so little time on the CPU that threads would mostly wait for each other.
    """

    draws: int
    is_mixing = False
    is_cheap = False
    _transformed_types = (torch.Tensor,)

    def forward(self, *inputs: Any) -> Any:
        """Transform the first tensor among the inputs, and every `tv_tensors.Image`; the rest passes through."""
        # Not super(): torchvision's transforms with a probability, and those of labels, toss a coin for the batch here.
        return v2.Transform.forward(self, *inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse inputs that are not a batch of images, with a TypeError or ValueError that says which."""
        for value in flat_inputs:
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, tv_tensors.Image):
                raise TypeError(f"{type(self).__name__} transforms images and labels, not {type(value).__name__}")
        images = [v for v, ours in zip(flat_inputs, self._needs_transform_list(flat_inputs), strict=True) if ours]
        if not images:
            raise TypeError(f"{type(self).__name__} needs a tensor of images (N, C, H, W)")
        for image in images:
            if image.ndim != 4 or image.shape[0] != images[0].shape[0] or image.shape[2:] != images[0].shape[2:]:
                raise ValueError(
                    f"{type(self).__name__} needs batches (N, C, H, W) of one size and got the shape "
                    f"{tuple(image.shape)}"
                )

    def make_params(self, flat_inputs: list[Any]) -> Params:
        """Draw parameters for the first input: a dict of (N, ...) tensors on its device, under torchvision's names."""
        if isinstance(flat_inputs, Tensor):
            raise TypeError("make_params takes a list of inputs, as any v2 transform does: make_params([images])")
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
            A dict of (N, ...) tensors on the device of `uniform`.
        """

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Transform image i with `params[...][i]`: (N, C, H, W), dtype and memory format kept.

        Equals torchvision's functional applied image by image; to the bit on the CPU.

        Raises:
            ValueError: `params` were made for another number of images.
        """
        images = inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.Image) else inpt
        for name, value in params.items():
            if value.shape[0] != images.shape[0]:
                raise ValueError(f"{name} has {value.shape[0]} entries, and the batch {images.shape[0]} images")
        out = self.one_by_one(images, params) if goes_one_by_one(images) else self.at_once(images, params)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.Image) else out

    def at_once(self, images: Tensor, params: Params) -> Tensor:
        """`transform` for the whole batch at once, on any device, in static shapes."""
        out = self.batched(images, params)
        if APPLY in params:
            out = torch.where(of_images(params[APPLY]), out, images)
        return out.contiguous(memory_format=memory_format(images))

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        """`transform` image by image, on the CPU; torchvision's result to the bit."""
        if not len(images):
            return self.at_once(images, params)
        each, out = list(rows(params)), _Batch(images)

        def one(index: int) -> None:
            row = each[index]
            applied = row.pop(APPLY, True)
            out.put(index, self.single(images[index], row) if applied else images[index])

        # Threads would write the graph of a tensor that requires gradients at the same time.
        for_each(len(images), one, alone=self.is_cheap or images.requires_grad)
        return out.images

    @abstractmethod
    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Transform all images at once, on any device, whether or not `apply` is set."""

    @abstractmethod
    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Transform one image (C, H, W) on the CPU with torchvision's functional; parameters are plain numbers."""


class _Batch:
    """Room for what becomes of `images`, made when the first is there, whose size and dtype all have."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        self._like = images
        self._lock = threading.Lock()

    def put(self, index: int, image: Tensor) -> None:
        """Write image (C, H, W) to its row."""
        with self._lock:
            if not hasattr(self, "images"):
                shape, layout = (len(self._like), *image.shape), memory_format(self._like)
                self.images = torch.empty(shape, dtype=image.dtype, memory_format=layout)
        self.images[index] = image


class CoinToss(PerSampleTransform):
    """What happens to a sample, or does not: nothing but `apply`, with probability `p`, is drawn."""

    draws = 1
    p: float

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """See the base class."""
        return {APPLY: uniform[:, 0] < self.p}


def goes_one_by_one(images: Tensor) -> bool:
    """Whether images are transformed one by one: on the CPU, outside of a compiled graph, which knows no loops."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling()


def rows(params: Params) -> Iterator[SampleParams]:
    """Each sample's parameters as plain numbers or lists, and those of more than two dimensions as tensors."""
    columns = [value.tolist() if value.ndim <= 2 else value.unbind(0) for value in params.values()]
    return (dict(zip(params, row, strict=True)) for row in zip(*columns, strict=True))


def of_images(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values[:, None, None, None]


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers from [0, 1) moved to [low, high)."""
    return low + (high - low) * uniform


def integer_below(uniform: Tensor, bound: Tensor | int) -> Tensor:
    """floor(uniform * bound), int64, which rounding could otherwise lift to the bound itself."""
    return torch.clamp((uniform * bound).long(), max=bound - 1)


TRIES = 10
"""Rectangles of random area and proportions that are tried for each sample, as in torchvision."""


def tried_sides(uniform: Tensor, area: int, scale: Sequence[float], ratio: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Sides of rectangles: sqrt(area * aspect) and sqrt(area / aspect), where the aspect's logarithm is uniform.

    Args:
        uniform: (N, 2 * TRIES or more).
        area: of the image, in pixels.
        scale: range of the rectangle's share of it.
        ratio: range of the aspect.

    Returns:
        Two of int64 (N, TRIES), in pixels.
    """
    areas = area * between(uniform[:, :TRIES], scale[0], scale[1])
    aspect = torch.exp(between(uniform[:, TRIES : 2 * TRIES], math.log(ratio[0]), math.log(ratio[1])))
    return torch.round(torch.sqrt(areas * aspect)).long(), torch.round(torch.sqrt(areas / aspect)).long()


def first_fitting(fits: Tensor, tried: Tensor, otherwise: int) -> Tensor:
    """Of each sample the first of `tried` (N, TRIES) whose `fits` is set, or `otherwise`: (N,)."""
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    return torch.where(fits.any(dim=1), tried.gather(1, first)[:, 0], otherwise)


def memory_format(images: Tensor) -> torch.memory_format:
    """channels_last if the images are, and only that; else contiguous."""
    # Not `is_contiguous(memory_format=torch.channels_last)`: in a graph that serves any batch size, torch 2.11 says no
    # of what the graph itself has made so.
    channels, height, width = images.shape[1:]
    wanted = (channels * height * width, 1, channels * width, channels)
    sizes = zip(images.shape, images.stride(), wanted, strict=True)
    channels_last = all(size == 1 or stride == want for size, stride, want in sizes) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def max_value(images: Tensor) -> int:
    """The largest value of an image of this dtype, as torchvision has it: 1 if floating, else 255."""
    return 1 if images.is_floating_point() else 255


def quantized(values: Tensor, images: Tensor, *, rounded: bool) -> Tensor:
    """`values` in the dtype of `images`; for uint8 rounded or cut off, as the kernel of torchvision does."""
    if images.is_floating_point():
        return values.to(images.dtype)
    return (values.round() if rounded else values.floor()).clamp(0, 255).to(images.dtype)
