"""Every transform of images, with torchvision's functional that it has to equal, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from food101_fast import transforms as T
from food101_fast.transforms.base import Params, SampleParams, of_images
from food101_fast.transforms.grids import center_of, inverse_affine, inverse_rotation
from food101_fast.transforms.operations import OPERATIONS, warp_matrices

BILINEAR = InterpolationMode.BILINEAR

Reference = Callable[[Tensor, dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far the computation of a whole batch may be from torchvision's image by image, of 255."""

    levels: int = 0
    """Of uint8 images."""
    floating: float = 0.0
    """Of float32 images, in units of 1 / 255."""
    share: float = 0.0
    """Of all pixels that may be off by any amount, if it is unknown which ones rounding moves to a neighbor, see
    `Sampled`."""
    why: str = "the very same values are taken"


EXACT = Tolerance()
NEAREST = Tolerance(share=0.003, why="sums in another order; a pixel in the middle between two may take the other one")
WARPED = Tolerance(levels=1, floating=0.1, why="sums in another order move a pixel, and noise has a slope of 255")
BLENDED = Tolerance(
    levels=1, floating=0.01, why="torch multiplies and adds with one rounding, we with two, and the result is cut off"
)


@dataclass(frozen=True)
class Sampled:
    """Where a warp takes its pixels from, and how far rounding may move that.

    Attributes:
        position: float64 (N, 2, H, W), x and y in pixels of the input, whose centers are whole numbers.
        bound: float64 (N, 2, H, W); of the difference between two computations in float32, in pixels.
    """

    position: Tensor
    bound: Tensor

    @classmethod
    def through(cls, matrices: Tensor, images: Tensor, origin: tuple[float, float]) -> Sampled:
        """Through matrices (N, 3, 3) from output to input, in pixels from `origin`.

        A position is a quotient of sums of three products. Each product, its factors and the sums are rounded: at most
        six roundings of half a unit in the last place, of the sum of the absolute values, in numerator and denominator,
        and six more of the whole length on the way to `grid_sample` and in it. Two computations differ by at most twice
        that.
        """
        height, width = images.shape[-2:]
        x = torch.arange(width, dtype=torch.float64) + 0.5 - origin[0]
        y = torch.arange(height, dtype=torch.float64) + 0.5 - origin[1]
        points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width)])
        terms = matrices.double()[..., None, None] * points
        total, size = terms.sum(dim=2), terms.abs().sum(dim=2)
        depth = total[:, 2:]
        from_origin = total[:, :2] / depth
        length = torch.tensor([width, height])[:, None, None]
        bound = (size[:, :2] + from_origin.abs() * size[:, 2:]) / depth.abs() + from_origin.abs() + length
        position = from_origin + torch.tensor(origin)[:, None, None] - 0.5
        return cls(position, 2 * 6 * 2.0**-24 * bound)

    def ties(self) -> Tensor:
        """Pixels that may take either of two neighbors, and no others: bool (N, 1, H, W)."""
        off = (self.position - self.position.floor() - 0.5).abs()
        return (off <= self.bound).any(dim=1, keepdim=True)

    def nearest(self, images: Tensor) -> Tensor:
        """How far a sampled image may be off, of 255: infinitely at a tie, and else not at all."""
        return torch.where(self.ties(), torch.inf, 0.0)

    def bilinear(self, images: Tensor, fill: float = 0.0) -> Tensor:
        """As `nearest`, for bilinear sampling.

        An image, and its blend with the filling, change by at most their range from pixel to pixel; it is blended
        twice.
        """
        largest = 255 * (2 + fill) if images.is_floating_point() else 2 * 255 + fill
        return self.bound.sum(dim=1, keepdim=True) * largest


def affinely(theta: Tensor, images: Tensor) -> Sampled:
    """Through the matrices (N, 2, 3) of `inverse_affine`."""
    last = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(theta), -1, -1)
    return Sampled.through(torch.cat([theta, last], dim=1), images, (images.shape[-1] / 2, images.shape[-2] / 2))


def rotated(images: Tensor, params: Params) -> Sampled:
    return affinely(inverse_rotation(params["angle"], (0.0, 0.0)), images)


def moved(images: Tensor, params: Params, center: tuple[float, float] | None = None) -> Sampled:
    (right, down), (shear_x, shear_y) = params["translate"].unbind(1), params["shear"].unbind(1)
    theta = inverse_affine(
        params["angle"], (right, down), params["scale"], (shear_x, shear_y), center_of(center, images)
    )
    return affinely(theta, images)


def seen(images: Tensor, params: Params) -> Sampled:
    last = torch.ones(len(images), 1)
    return Sampled.through(torch.cat([params["coefficients"], last], dim=1).view(-1, 3, 3), images, (0.0, 0.0))


def automatically(images: Tensor, params: Params) -> Sampled:
    return affinely(warp_matrices(params["transform_id"][:, 0], params["magnitude"][:, 0], images), images)


def mixed_automatically(images: Tensor, params: Params) -> Tensor:
    """The slack of the weighted sum of chains of one operation each, sampled bilinearly: (N, 1, H, W)."""
    slack = torch.zeros(())
    for chain in range(params["transform_id"].shape[1]):
        drawn = {name: params[name][:, chain] for name in ("transform_id", "magnitude")}
        of_chain = automatically(images, drawn).bilinear(images)
        slack = slack + of_images(params["weights"][:, 1 + chain].double()) * of_chain
    return slack


class OneOfTwo(T.AutoAugment):
    """Without the second operation of each pair, which makes more of what rounding has done to the first."""

    def _get_policies(self, policy: Any) -> Any:
        return [(step, ("Equalize", 0.0, None)) for pair in super()._get_policies(policy) for step in pair]


@dataclass(frozen=True)
class Case:
    """A transform and what it must equal."""

    name: str
    make: Callable[[], T.PerSampleTransform]
    reference: Reference
    tolerance: Tolerance
    continuous: bool = True
    """Whether two samples never come out alike."""
    slack: Callable[[Tensor, Params], Tensor] | None = None
    """How far each pixel may be off beyond the tolerance since it is sampled, of 255: (N, 1, H, W)."""


def rotate(image: Tensor, p: SampleParams, interpolation: InterpolationMode, fill: Any) -> Tensor:
    out: Tensor = F.rotate(image, p["angle"], interpolation=interpolation, fill=fill)
    return out


def affine(image: Tensor, p: SampleParams, interpolation: InterpolationMode, fill: Any, center: Any) -> Tensor:
    out: Tensor = F.affine(image, **p, interpolation=interpolation, fill=fill, center=center)
    return out


def perspective(image: Tensor, p: SampleParams, interpolation: InterpolationMode, fill: Any) -> Tensor:
    if p.pop("apply"):
        image = F.perspective(image, None, None, interpolation=interpolation, fill=fill, **p)
    return image


def jitter(image: Tensor, p: SampleParams) -> Tensor:
    for step in p["fn_idx"]:
        if step == 0 and "brightness_factor" in p:
            image = F.adjust_brightness(image, p["brightness_factor"])
        if step == 1 and "contrast_factor" in p:
            image = F.adjust_contrast(image, p["contrast_factor"])
        if step == 2 and "saturation_factor" in p:
            image = F.adjust_saturation(image, p["saturation_factor"])
        if step == 3 and "hue_factor" in p:
            image = F.adjust_hue(image, p["hue_factor"])
    return image


def erase(image: Tensor, p: SampleParams) -> Tensor:
    return F.erase(image, p["i"], p["j"], p["h"], p["w"], torch.as_tensor(p["v"])) if p["apply"] else image


def automatic(interpolation: InterpolationMode, fill: Any) -> Reference:
    theirs = v2.RandAugment(interpolation=interpolation, fill=fill)

    def reference(image: Tensor, p: SampleParams) -> Tensor:
        for index, magnitude in zip(p["transform_id"], p["magnitude"], strict=True):
            image = theirs._apply_image_or_video_transform(
                image, OPERATIONS[index], magnitude, interpolation, theirs._fill
            )
        return image

    return reference


class Injected(v2.AugMix):  # torchvision has no types
    """torchvision's AugMix itself, with given draws."""

    def given(self, p: SampleParams) -> v2.AugMix:
        drawn = (p[name].flatten().tolist() for name in ("transform_id", "magnitude"))
        own, *chains = p["weights"]
        self._chains = iter(list(zip(*drawn, strict=True)))
        self._shares = iter([torch.tensor([[own, 1.0]]), torch.tensor([chains])])
        return self

    def _sample_dirichlet(self, params: Tensor) -> Tensor:
        return next(self._shares)

    def _get_random_item(self, dct: Any) -> Any:
        index, magnitude = next(self._chains)
        return OPERATIONS[index], (lambda bins, height, width: torch.full((bins,), magnitude), False)


def mixing(image: Tensor, p: SampleParams, interpolation: InterpolationMode) -> Tensor:
    width, depth = p["transform_id"].shape
    theirs = Injected(mixture_width=width, chain_depth=depth, interpolation=interpolation)
    out: Tensor = theirs.given(p)(image)
    return out


def applied(image: Tensor, p: SampleParams) -> Tensor:
    if p["apply"]:
        image = F.gaussian_blur(F.vertical_flip(image) if p["0.apply"] else image, [3, 3], p["1.sigma"])
    return image


def chosen(image: Tensor, p: SampleParams) -> Tensor:
    if p["choice"] == 0:
        image = F.rotate(image, p["0.angle"])
    elif p["choice"] == 1:
        image = F.gaussian_blur(image, [3, 3], p["1.sigma"])
    return image


NEAR = InterpolationMode.NEAREST
CASES = [
    Case(
        "RandomHorizontalFlip",
        lambda: T.RandomHorizontalFlip(0.6),
        lambda image, p: F.horizontal_flip(image) if p["apply"] else image,
        EXACT,
        continuous=False,
    ),
    Case(
        "RandomVerticalFlip",
        T.RandomVerticalFlip,
        lambda image, p: F.vertical_flip(image) if p["apply"] else image,
        EXACT,
        continuous=False,
    ),
    Case(
        "RandomRotation",
        lambda: T.RandomRotation(180),
        lambda i, p: rotate(i, p, NEAR, 0),
        NEAREST,
        slack=lambda i, p: rotated(i, p).nearest(i),
    ),
    Case(
        "RandomRotation, bilinear",
        lambda: T.RandomRotation((-30, 60), interpolation=BILINEAR, fill=(9, 0, 200)),
        lambda i, p: rotate(i, p, BILINEAR, (9, 0, 200)),
        WARPED,
        slack=lambda i, p: rotated(i, p).bilinear(i, 200),
    ),
    Case(
        "RandomAffine",
        lambda: T.RandomAffine(40, (0.2, 0.1), (0.6, 1.5), (-10, 20, -5, 15), fill=77),
        lambda i, p: affine(i, p, NEAR, 77, None),
        NEAREST,
        slack=lambda i, p: moved(i, p).nearest(i),
    ),
    Case(
        "RandomAffine, bilinear",
        lambda: T.RandomAffine(40, (0.2, 0.1), (0.6, 1.5), 10, interpolation=BILINEAR, center=[3, 5]),
        lambda i, p: affine(i, p, BILINEAR, 0, [3, 5]),
        WARPED,
        slack=lambda i, p: moved(i, p, (3, 5)).bilinear(i),
    ),
    Case(
        "RandomPerspective",
        lambda: T.RandomPerspective(0.7, p=0.8),
        lambda i, p: perspective(i, p, BILINEAR, 0),
        WARPED,
        continuous=False,
        slack=lambda i, p: seen(i, p).bilinear(i),
    ),
    Case(
        "RandomPerspective, nearest",
        lambda: T.RandomPerspective(0.5, p=0.8, interpolation=NEAR, fill=3),
        lambda i, p: perspective(i, p, NEAR, 3),
        NEAREST,
        continuous=False,
        slack=lambda i, p: seen(i, p).nearest(i),
    ),
    Case(
        "ColorJitter",
        lambda: T.ColorJitter(0.4, 0.4, 0.4, 0.3),
        jitter,
        Tolerance(levels=4, floating=0.05, why="as of one blend, of which there are three, and the hue"),
    ),
    Case(
        "ColorJitter, two factors",
        lambda: T.ColorJitter(contrast=(0.2, 1.9), saturation=0.9),
        jitter,
        Tolerance(levels=2, floating=0.02, why="as of one blend, of which there are two"),
    ),
    Case(
        "ColorJitter, hue",
        lambda: T.ColorJitter(hue=0.5),
        jitter,
        Tolerance(levels=1, floating=0.02, why="the same color from another formula"),
    ),
    Case(
        "RandomGrayscale",
        lambda: T.RandomGrayscale(0.5),
        lambda image, p: F.rgb_to_grayscale(image, 3) if p["apply"] else image,
        BLENDED,
        continuous=False,
    ),
    Case(
        "GaussianBlur",
        lambda: T.GaussianBlur((5, 3), sigma=(0.5, 2.0)),
        lambda image, p: F.gaussian_blur(image, [5, 3], p["sigma"]),
        Tolerance(levels=1, floating=0.01, why="two filters of one axis each, not one of two; uint8 is rounded"),
    ),
    Case("RandomErasing", lambda: T.RandomErasing(0.8, value=(7, 0, 1)), erase, EXACT),
    Case(
        "TrivialAugmentWide",
        T.TrivialAugmentWide,
        automatic(NEAR, None),
        Tolerance(levels=1, floating=0.01, share=0.003, why="as of its warps and blends"),
        continuous=False,
        slack=lambda i, p: automatically(i, p).nearest(i),
    ),
    Case(
        "RandAugment",
        lambda: T.RandAugment(1, magnitude=20, interpolation=BILINEAR, fill=(50, 60, 70)),
        automatic(BILINEAR, [50.0, 60.0, 70.0]),
        Tolerance(levels=1, floating=0.1, why="as of its warps and blends"),
        continuous=False,
        slack=lambda i, p: automatically(i, p).bilinear(i, 70),
    ),
    Case(
        "AutoAugment",
        OneOfTwo,
        automatic(NEAR, None),
        Tolerance(levels=1, floating=0.01, share=0.003, why="as of its warps and blends"),
        continuous=False,
        slack=lambda i, p: automatically(i, p).nearest(i),
    ),
    Case(
        "AugMix",
        lambda: T.AugMix(severity=7, chain_depth=1),
        lambda i, p: mixing(i, p, BILINEAR),
        Tolerance(levels=2, floating=0.1, why="as of its warps and blends, of which the sum is rounded down"),
        slack=mixed_automatically,
    ),
    Case(
        "RandomApply",
        lambda: T.RandomApply([T.RandomVerticalFlip(), T.GaussianBlur(3)], 0.6),
        applied,
        EXACT,
        continuous=False,
    ),
    Case(
        "RandomChoice",
        lambda: T.RandomChoice(
            [T.RandomRotation(90), T.GaussianBlur(3), T.RandomHorizontalFlip(0.0)], p=[0.5, 0.3, 0.4]
        ),
        chosen,
        EXACT,
        continuous=False,
    ),
]
