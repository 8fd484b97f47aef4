"""torchvision's pixels and torchvision's distribution, with one draw per sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from food101_fast import transforms as T
from food101_fast.transforms.geometry import resized_crop_loop, resized_crop_products


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


def torchvision_crops(images: Tensor, params: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    rows = zip(*(params[name].tolist() for name in ("top", "left", "height", "width")), strict=True)
    return torch.stack(
        [F.resized_crop(image, *row, list(size), antialias=True) for image, row in zip(images, rows, strict=True)]
    )


@settings(max_examples=150, deadline=None)
@given(crops())
def test_products_equal_torchvision_in_float32(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    images, params, size = case
    floating = images.float()
    got = resized_crop_products(floating, **params, size=size)
    assert (got - torchvision_crops(floating, params, size)).abs().max() <= 1e-3  # of 255: sums in another order


@settings(max_examples=50, deadline=None)
@given(crops())
def test_products_equal_torchvision_in_uint8(case: tuple[Tensor, dict[str, Tensor], tuple[int, int]]) -> None:
    images, params, size = case
    got = resized_crop_products(images, **params, size=size)
    assert got.dtype == torch.uint8
    # Torch's CPU kernel for uint8 rounds its weights to 16 bits, and rounds once more between the axes.
    assert (got.int() - torchvision_crops(images, params, size).int()).abs().max() <= 1


@settings(max_examples=50, deadline=None)
@given(crops(), st.sampled_from([torch.uint8, torch.float32]), st.booleans())
def test_the_loop_is_torchvision(
    case: tuple[Tensor, dict[str, Tensor], tuple[int, int]], dtype: torch.dtype, channels_last: bool
) -> None:
    images, params, size = case
    images = images.to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    got = resized_crop_loop(images, **params, size=size)
    assert (got.float() - torchvision_crops(images, params, size).float()).abs().max() <= 1e-3
    assert got.dtype == dtype


def test_memory_format_is_kept() -> None:
    images = torch.zeros(2, 3, 20, 20, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    for transform in (T.RandomResizedCrop(8), T.RandomHorizontalFlip()):
        assert transform(images).is_contiguous(memory_format=torch.channels_last)
        out = transform(images.contiguous())
        assert out.is_contiguous()
        assert out.dtype == torch.uint8


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.sampled_from([torch.uint8, torch.float32]))
def test_flip_is_torchvision_image_by_image(flips: list[bool], dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (len(flips), 3, 5, 7)).to(dtype)
    got = T.RandomHorizontalFlip().transform(images, {"flip": torch.tensor(flips)})
    expected = [F.horizontal_flip(image) if flip else image for image, flip in zip(images, flips, strict=True)]
    assert torch.equal(got, torch.stack(expected))


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [(100, 100, {}), (60, 200, {}), (40, 30, {"scale": (0.9, 1.0), "ratio": (0.5, 0.6)}), (10, 300, {})],
)
def test_crops_are_distributed_as_torchvisions(
    height: int, width: int, options: dict[str, tuple[float, float]]
) -> None:
    torch.manual_seed(1)
    count = 4000
    ours = T.RandomResizedCrop(8, **options).make_params([torch.empty(count, 3, height, width)])
    reference = v2.RandomResizedCrop(8, **options)
    drawn = [reference.make_params([torch.empty(3, height, width)]) for _ in range(count)]
    for name in ("top", "left", "height", "width"):
        theirs = np.array([params[name] for params in drawn])
        assert ours[name].shape == (count,)
        assert stats.ks_2samp(ours[name].numpy(), theirs).pvalue > 1e-3, name


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flips_come_with_their_probability(p: float) -> None:
    flips = T.RandomHorizontalFlip(p).make_params([torch.empty(10_000, 3, 4, 4)])["flip"]
    assert flips.double().mean().item() == pytest.approx(p, abs=0.02 if 0 < p < 1 else 0)


def test_copies_of_one_image_come_out_different() -> None:
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    batch = image.expand(32, -1, -1, -1)
    ours = T.RandomResizedCrop(32)(batch)
    assert len({image.numpy().tobytes() for image in ours}) == 32
    assert len({image.numpy().tobytes() for image in v2.RandomResizedCrop(32)(batch)}) == 1


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
    with pytest.raises(ValueError, match=r"needs a batch \(N, C, H, W\)"):
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
def test_wrong_arguments_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="should be"):
        make()  # type: ignore[operator]
