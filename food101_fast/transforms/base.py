"""What every per-sample transform shares: parameters are (N, ...) tensors, computed from (N, draws) uniform numbers.

Used alone, a transform takes the numbers from torch's generator of the images' device, as any v2 transform does. In a
run, the preset makes them with `keyed_uniform`. Nothing else differs.

The same parameters can be applied in two ways. On the CPU torchvision's own kernels run image by image, in as many
threads as `torch.get_num_threads()`: an image and its intermediate results stay in the cache, and the result equals
torchvision's to the bit. On other devices, and in a compiled graph, the whole batch is computed at once, in static
shapes and without reading any value on the host. On the CPU with one thread this would be 1.2 to 12 times slower,
except for the warps: they would be up to twice as fast, but off by rounding.
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
"""Name of the parameter, bool (N,), that says which images are changed by a transform with a probability."""


class PerSampleTransform(v2.Transform, ABC):
    """A v2 transform that draws parameters for each sample of a batch separately.

    Takes images (N, C, H, W), uint8 or floating, in any memory format, on any device. Labels and other inputs pass
    through as in torchvision's transforms. Boxes, masks, videos and PIL images are refused, since one draw per sample
    is defined for batches of images only.

    Subclasses also inherit from torchvision's transform of the same name, which checks and stores the arguments.

    Attributes:
        draws: number of uniform numbers that the parameters of one sample need.
        is_mixing: whether it mixes samples of a batch, and their labels.
        is_cheap: whether one image takes so little time on the CPU that threads would not help.
    """

    draws: int
    is_mixing = False
    is_cheap = False
    _transformed_types = (torch.Tensor,)

    def forward(self, *inputs: Any) -> Any:
        """Transform the first tensor among the inputs, and every `tv_tensors.Image`; other inputs pass through."""
        # Not super(): torchvision's transforms with a probability, and those of labels, draw once for the batch there.
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
        """Draw parameters for the first input: a dict of (N, ...) tensors on its device, with torchvision's names."""
        if isinstance(flat_inputs, Tensor):
            raise TypeError("make_params takes a list of inputs, as any v2 transform does: make_params([images])")
        images = flat_inputs[0]
        uniform = torch.rand(images.shape[0], self.draws, device=images.device)
        return self.params_from(uniform, images.shape[-2], images.shape[-1])

    @abstractmethod
    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Compute parameters from uniform numbers.

        Args:
            uniform: float32 (N, draws) in [0, 1).
            height: of the images, in pixels.
            width: of the images, in pixels.

        Returns:
            A dict of (N, ...) tensors on the device of `uniform`.
        """

    def transform(self, inpt: Tensor, params: Params) -> Tensor:
        """Transform image i with `params[...][i]`: (N, C, H, W); keeps dtype and memory format.

        Equals torchvision's functional applied image by image, on the CPU to the bit.

        Raises:
            ValueError: `params` are for another number of images.
        """
        images = inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.Image) else inpt
        for name, value in params.items():
            if value.shape[0] != images.shape[0]:
                raise ValueError(f"{name} has {value.shape[0]} entries, and the batch {images.shape[0]} images")
        out = self.one_by_one(images, params) if goes_one_by_one(images) else self.at_once(images, params)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.Image) else out

    def at_once(self, images: Tensor, params: Params) -> Tensor:
        """As `transform`, for the whole batch at once, on any device, in static shapes."""
        out = self.batched(images, params)
        if APPLY in params:
            out = torch.where(of_images(params[APPLY]), out, images)
        return out.contiguous(memory_format=memory_format(images))

    def one_by_one(self, images: Tensor, params: Params) -> Tensor:
        """As `transform`, image by image on the CPU; equals torchvision's result to the bit."""
        if not len(images):
            return self.at_once(images, params)
        each, out = list(rows(params)), _Batch(images)

        def one(index: int) -> None:
            row = each[index]
            applied = row.pop(APPLY, True)
            out.put(index, self.single(images[index], row) if applied else images[index])

        # With gradients, several threads would write the autograd graph at the same time.
        for_each(len(images), one, alone=self.is_cheap or images.requires_grad)
        return out.images

    @abstractmethod
    def batched(self, images: Tensor, params: Params) -> Tensor:
        """Transform all images at once, on any device, regardless of `apply`."""

    @abstractmethod
    def single(self, image: Tensor, params: SampleParams) -> Tensor:
        """Transform one image (C, H, W) on the CPU with torchvision's functional; parameters are plain numbers."""


class _Batch:
    """The transformed batch, allocated with the size and dtype of the first image that is ready."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        self._like = images
        self._lock = threading.Lock()

    def put(self, index: int, image: Tensor) -> None:
        """Store image (C, H, W) as row `index`."""
        with self._lock:
            if not hasattr(self, "images"):
                shape, layout = (len(self._like), *image.shape), memory_format(self._like)
                self.images = torch.empty(shape, dtype=image.dtype, memory_format=layout)
        self.images[index] = image


class CoinToss(PerSampleTransform):
    """A fixed change of each sample with probability `p`; only `apply` is drawn."""

    draws = 1
    p: float

    def params_from(self, uniform: Tensor, height: int, width: int) -> Params:
        """Draw which samples are changed: `apply`, bool (N,)."""
        return {APPLY: uniform[:, 0] < self.p}


def goes_one_by_one(images: Tensor) -> bool:
    """Whether images are transformed one by one: on the CPU, outside of compiled graphs, which have no loops."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling()


def rows(params: Params) -> Iterator[SampleParams]:
    """Each sample's parameters as plain numbers or lists, or as tensors if they have more than two dimensions."""
    columns = [value.tolist() if value.ndim <= 2 else value.unbind(0) for value in params.values()]
    return (dict(zip(params, row, strict=True)) for row in zip(*columns, strict=True))


def of_images(values: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Scale uniform numbers from [0, 1) to [low, high)."""
    return low + (high - low) * uniform


def integer_below(uniform: Tensor, bound: Tensor | int) -> Tensor:
    """Compute floor(uniform * bound), int64; clamped, since rounding could reach the bound itself."""
    return torch.clamp((uniform * bound).long(), max=bound - 1)


TRIES = 10
"""How many rectangles of random area and proportions are tried for each sample, as in torchvision."""


def tried_sides(uniform: Tensor, area: int, scale: Sequence[float], ratio: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Sides of rectangles: sqrt(area * aspect) and sqrt(area / aspect), where log(aspect) is uniform.

    Args:
        uniform: (N, 2 * TRIES or more).
        area: of the image, in pixels.
        scale: range of the rectangle's share of the area.
        ratio: range of the aspect.

    Returns:
        Two int64 tensors (N, TRIES), in pixels.
    """
    areas = area * between(uniform[:, :TRIES], scale[0], scale[1])
    aspect = torch.exp(between(uniform[:, TRIES : 2 * TRIES], math.log(ratio[0]), math.log(ratio[1])))
    return torch.round(torch.sqrt(areas * aspect)).long(), torch.round(torch.sqrt(areas / aspect)).long()


def first_fitting(fits: Tensor, tried: Tensor, otherwise: int) -> Tensor:
    """For each sample the first of `tried` (N, TRIES) where `fits` is set, or else `otherwise`: (N,)."""
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    return torch.where(fits.any(dim=1), tried.gather(1, first)[:, 0], otherwise)


def memory_format(images: Tensor) -> torch.memory_format:
    """The memory format of images (N, C, H, W): channels_last if they are that and not also contiguous."""
    # Not `is_contiguous(memory_format=torch.channels_last)`: in a graph for any batch size, torch 2.11 returns False
    # for tensors that the graph itself made channels_last.
    channels, height, width = images.shape[1:]
    wanted = (channels * height * width, 1, channels * width, channels)
    sizes = zip(images.shape, images.stride(), wanted, strict=True)
    channels_last = all(size == 1 or stride == want for size, stride, want in sizes) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def max_value(images: Tensor) -> int:
    """The largest value of images of this dtype in torchvision: 1 if floating, else 255."""
    return 1 if images.is_floating_point() else 255


def quantized(values: Tensor, images: Tensor, *, rounded: bool) -> Tensor:
    """Convert `values` to the dtype of `images`; for uint8 rounded or rounded down, as torchvision's kernel does."""
    if images.is_floating_point():
        return values.to(images.dtype)
    return (values.round() if rounded else values.floor()).clamp(0, 255).to(images.dtype)
