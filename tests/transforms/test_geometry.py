"""torchvision's pixels and torchvision's distribution, with one draw per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from food101_fast import transforms as T
from food101_fast.transforms.base import Params
from food101_fast.transforms.geometry import resized_crop_products


@st.composite
def crops(draw: st.DrawFn) -> tuple[Tensor, dict[str, Tensor], tuple[int, int]]:
    """Noise images, the hardest for a resize, with a crop of any size for each.

    Columns are at least two: on images one pixel wide torch's antialiased kernel returns the first row throughout.
    """
    n, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 70)), draw(st.integers(2, 70))
    size = (draw(st.integers(1, 50)), draw(st.integers(2, 50)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    images = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    h = [draw(st.integers(1, height)) for _ in range(n)]
    w = [draw(st.integers(2, width)) for _ in range(n)]
    top = [draw(st.integers(0, height - a)) for a in h]
    left = [draw(st.integers(0, width - a)) for a in w]
    params = {"top": top, "left": left, "height": h, "width": w}
    return images, {name: torch.tensor(values) for name, values in params.items()}, size


def torchvision_crops(
    images: Tensor,
    params: dict[str, Tensor],
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> Tensor:
    rows = zip(*(params[name].tolist() for name in ("top", "left", "height", "width")), strict=True)
    return torch.stack(
        [
            F.resized_crop(image, *row, list(size), interpolation, antialias=True)
            for image, row in zip(images, rows, strict=True)
        ]
    )


def products(images: Tensor, params: Params, size: tuple[int, int], **options: Any) -> Tensor:
    top, left, height, width = (params[name] for name in ("top", "left", "height", "width"))
    return resized_crop_products(images, top, left, height, width, size, **options)


@settings(max_examples=150, deadline=None)
@given(crops())
def test_products_equal_torchvision_in_float32(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    images, params, size = case
    floating = images.float()
    got = products(floating, params, size)
    assert (got - torchvision_crops(floating, params, size)).abs().max() <= 1e-3  # of 255: sums in another order


@settings(max_examples=50, deadline=None)
@given(crops())
def test_products_equal_torchvision_in_uint8(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    images, params, size = case
    got = products(images, params, size)
    assert got.dtype == torch.uint8
    # Torch's CPU kernel for uint8 rounds its weights to 16 bits, and rounds once more between the axes.
    assert (got.int() - torchvision_crops(images, params, size).int()).abs().max() <= 1


@settings(max_examples=50, deadline=None)
@given(crops())
def test_products_equal_torchvision_in_float16(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    """What CUDA multiplies: images and weights in float16, sums in float32."""
    images, params, size = case
    got = products(images.float(), params, size, compute=torch.float16)
    # Weights and the values between the two products have eleven bits; 255 has a step of 1/8 there.
    assert (got - torchvision_crops(images.float(), params, size)).abs().max() <= 0.5


@settings(max_examples=50, deadline=None)
@given(crops())
def test_bicubic_products_equal_torchvision(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    images, params, size = case
    expected = torchvision_crops(images.float(), params, size, interpolation=InterpolationMode.BICUBIC)
    got = products(images.float(), params, size, interpolation="bicubic")
    assert (got - expected).abs().max() <= 2e-3  # of 255; weights are negative, too, and so sums are larger
    # torch's CPU kernel for uint8 cuts off what overshoots between the axes, torchvision's on CUDA at the end, as here.
    whole = products(images, params, size, interpolation="bicubic")
    assert (whole.float() - expected.round().clamp(0, 255)).abs().max() <= 1


@settings(max_examples=50, deadline=None)
@given(crops(), st.sampled_from([torch.uint8, torch.float32]), st.booleans(), st.data())
def test_crops_on_the_cpu_are_torchvisions(
    case: tuple[Tensor, dict[str, Tensor], tuple[int, int]],
    dtype: torch.dtype,
    channels_last: bool,
    data: st.DataObject,
) -> None:
    images, params, size = case
    images = images.to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    transform = T.RandomResizedCrop(size)
    expected = torchvision_crops(images, params, size)
    # torch has one kernel for each memory format, and they sum in another order.
    assert (transform.transform(images, params).float() - expected.float()).abs().max() <= 1e-3
    flips = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images))))
    mirrored = torch.where(flips[:, None, None, None], expected.flip(-1), expected).float()
    assert (transform.transform_and_flip(images, params, flips).float() - mirrored).abs().max() <= 1e-3
    at_once = products(images, params, size, flip=flips)
    assert (at_once.float() - mirrored).abs().max() <= (1 if dtype == torch.uint8 else 1e-3)


def test_memory_format_is_kept() -> None:
    images = torch.zeros(2, 3, 20, 20, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    for transform in (T.RandomResizedCrop(8), T.RandomHorizontalFlip()):
        assert transform(images).is_contiguous(memory_format=torch.channels_last)
        out = transform(images.contiguous())
        assert out.is_contiguous()
        assert out.dtype == torch.uint8


def test_torchs_seed_decides() -> None:
    images = torch.randint(0, 256, (8, 3, 30, 30), dtype=torch.uint8)
    transform = v2.Compose([T.RandomResizedCrop(16), T.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    results = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        results.append(transform(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_labels_pass_and_boxes_are_refused() -> None:
    images, labels = torch.zeros(4, 3, 20, 20), torch.arange(4)
    out, same = T.RandomResizedCrop(8)(images, labels)
    assert out.shape == (4, 3, 8, 8)
    assert same is labels
    boxes = tv_tensors.BoundingBoxes(torch.zeros(4, 4), format="XYXY", canvas_size=(20, 20))
    with pytest.raises(TypeError, match="transforms images and labels, not BoundingBoxes"):
        T.RandomHorizontalFlip()(tv_tensors.Image(images), boxes)
    with pytest.raises(ValueError, match=r"needs batches \(N, C, H, W\)"):
        T.RandomHorizontalFlip()(images[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.RandomResizedCrop(0),
        lambda: T.RandomResizedCrop((1, 2, 3)),
        lambda: T.RandomResizedCrop(8, scale=(1.0, 0.5)),
        lambda: T.RandomHorizontalFlip(1.5),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="should be"):
        make()
