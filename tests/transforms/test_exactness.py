"""With the same parameters a batch at once gives what torchvision's functionals give image by image."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from food101_fast import transforms as T
from food101_fast.transforms.base import of_images, rows
from food101_fast.transforms.operations import OPERATIONS, apply_operation, warp_matrices
from tests.transforms.cases import BILINEAR, CASES, NEAR, Case, Tolerance, affinely, automatic, mixing

by_name = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@st.composite
def batches(draw: st.DrawFn, *, smallest: int = 3, dtypes: Any = (torch.uint8, torch.float32)) -> Tensor:
    """Noise and smooth images of odd, tiny and wide sizes, in both memory formats."""
    n, height, width = draw(st.integers(1, 4)), draw(st.integers(smallest, 50)), draw(st.integers(smallest, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    images = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    if draw(st.booleans()):  # flat areas, gray pixels, few levels
        images = images.div(64, rounding_mode="floor").mul(85)
        images[:, :, : height // 2] = images[:, :1, : height // 2]
    dtype = draw(st.sampled_from(dtypes))
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    return images.contiguous(memory_format=torch.channels_last) if draw(st.booleans()) else images


def assert_close(
    got: Tensor, expected: Tensor, images: Tensor, tolerance: Tolerance, slack: Tensor | None = None
) -> None:
    """Compare within the tolerance.

    With `slack`, (N, 1, H, W), each pixel may be off by that and rounding, and no share of pixels by more.
    """
    assert got.dtype == images.dtype
    assert got.shape == expected.shape
    scale = 255 if images.is_floating_point() else 1
    allowed: Tensor | float = tolerance.floating if images.is_floating_point() else tolerance.levels
    if slack is not None:
        allowed = slack + (min(tolerance.floating, 0.01) if images.is_floating_point() else tolerance.levels)
    difference = (got.double() - expected.double()).abs() * scale
    off = (difference > allowed + 1e-9).any(dim=1).double().mean().item()
    # In a tiny image a single pixel may be a large share.
    share = 0 if slack is not None or not tolerance.share else max(tolerance.share, 1.5 / expected[:, 0].numel())
    assert off <= share


@by_name
@settings(max_examples=60, deadline=None)
@given(images=batches(), seed=st.integers(0, 10**6))
def test_a_batch_at_once_equals_torchvision(case: Case, images: Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    transform = case.make()
    params = transform.make_params([images])
    expected = torch.stack([case.reference(image, row) for image, row in zip(images, rows(params), strict=True)])
    slack = None if case.slack is None else case.slack(images, params)
    assert_close(transform.at_once(images, params), expected, images, case.tolerance, slack)
    one_by_one = transform.transform(images, params)
    # To the bit; a corner at infinity gives NaN, here and in torchvision.
    torch.testing.assert_close(one_by_one, expected, rtol=0, atol=0, equal_nan=True)
    for out in (one_by_one, transform.at_once(images, params)):
        assert out.is_contiguous(memory_format=torch.channels_last) or images.is_contiguous()


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25, deadline=None)
@given(images=batches(), magnitude=st.floats(0, 1), sign=st.sampled_from([-1, 1]))
def test_each_operation_equals_torchvision(name: str, images: Tensor, magnitude: float, sign: int) -> None:
    """Over the widest range of magnitudes, which a draw seldom reaches."""
    low, high = T.TrivialAugmentWide().ranges(*images.shape[-2:]).get(name, (0.0, 0.0))
    value = low + (high - low) * magnitude
    value = round(value) if name == "Posterize" else value * (1 if name == "Solarize" else sign)
    which = torch.full((len(images),), OPERATIONS.index(name))
    magnitudes = torch.full((len(images),), value, dtype=torch.float32)
    theirs = v2.TrivialAugmentWide()
    expected = [
        theirs._apply_image_or_video_transform(image, name, magnitudes[0].item(), NEAR, theirs._fill)
        for image in images
    ]
    got = apply_operation(images, which, magnitudes, "nearest", None)
    exact = name in ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        slack = affinely(warp_matrices(which, magnitudes, images), images).nearest(images)
        assert_close(got, torch.stack(expected), images, Tolerance(), slack)
    else:
        assert_close(got, torch.stack(expected), images, Tolerance() if exact else Tolerance(levels=1, floating=0.01))


WARPS = [case for case in CASES if case.slack is not None]
by_warp = pytest.mark.parametrize("case", WARPS, ids=[case.name for case in WARPS])


def fused(points: Tensor, matrices: Tensor) -> Tensor:
    """`Tensor.bmm` in float32 as some processors do it: each product and sum with one rounding."""
    out = torch.zeros((), dtype=torch.float32)
    for k in range(points.shape[2]):
        out = (out.double() + points[:, :, k : k + 1].double() * matrices[:, k : k + 1].double()).float()
    return out


@by_warp
def test_a_processor_that_rounds_otherwise_stays_within_the_bound(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grids of torchvision are such products, and depend on the processor; ours are sums."""
    assert case.slack is not None
    monkeypatch.setattr(Tensor, "bmm", fused)
    generator, flipped = torch.Generator().manual_seed(7), 0
    for seed in range(60):
        height, width = (int(torch.randint(3, 40, (), generator=generator)) for _ in range(2))
        images = torch.rand(4, 3, height, width, generator=generator)
        torch.manual_seed(seed)
        transform = case.make()
        params = transform.make_params([images])
        expected = torch.stack([case.reference(image, row) for image, row in zip(images, rows(params), strict=True)])
        got = transform.at_once(images, params)
        assert_close(got, expected, images, case.tolerance, case.slack(images, params))
        flipped += int(((got - expected).abs() > 0.01).sum())
    # Corners that move by whole pixels give many ties. Were none decided otherwise, this would test nothing.
    assert flipped > 0 or case.name != "RandomPerspective, nearest"


@by_warp
def test_few_pixels_may_be_off_by_much(case: Case) -> None:
    """So that what is allowed at ties hides nothing."""
    assert case.slack is not None
    images = torch.zeros(256, 3, 50, 70)
    torch.manual_seed(0)
    slack = case.slack(images, case.make().make_params([images]))
    assert (slack > 20).double().mean() < 0.01  # of 255; or of 51,000, where it is filled with 200


@settings(max_examples=20, deadline=None)
@given(images=batches(), seed=st.integers(0, 10**6))
def test_operations_come_one_after_the_other(images: Tensor, seed: int) -> None:
    """Each from what the one before has made: a difference of rounding may grow on the way, so it is not compared."""
    torch.manual_seed(seed)
    transform = T.RandAugment(3)
    params = transform.make_params([images])
    out = images
    for which, magnitude in zip(params["transform_id"].T, params["magnitude"].T, strict=True):
        out = apply_operation(out, which, magnitude, "nearest", None)
    assert torch.equal(transform.at_once(images, params), out)
    assert params["transform_id"].shape == params["magnitude"].shape == (len(images), 3)


POLICIES = pytest.mark.parametrize("policy", list(T.AutoAugmentPolicy))


@POLICIES
@settings(max_examples=20, deadline=None)
@given(images=batches(), seed=st.integers(0, 10**6))
def test_policies_are_applied_as_torchvisions(policy: T.AutoAugmentPolicy, images: Tensor, seed: int) -> None:
    """Image by image to the bit; at once each operation as it is alone, whatever cannot occur is left out."""
    torch.manual_seed(seed)
    transform = T.AutoAugment(policy, interpolation=BILINEAR, fill=3)
    params, reference = transform.make_params([images]), automatic(BILINEAR, 3)
    expected = torch.stack([reference(image, row) for image, row in zip(images, rows(params), strict=True)])
    assert torch.equal(transform.transform(images, params), expected)
    out = images
    for which, magnitude in zip(params["transform_id"].T, params["magnitude"].T, strict=True):
        out = apply_operation(out, which, magnitude, "bilinear", 3)
    assert torch.equal(transform.at_once(images, params), out)


@pytest.mark.parametrize("all_ops", [True, False])
@settings(max_examples=20, deadline=None)
@given(
    images=batches(dtypes=(torch.uint8, torch.float32, torch.float64)),
    seed=st.integers(0, 10**6),
    width=st.integers(1, 4),
    depth=st.sampled_from([-1, 1, 2, 4]),
)
def test_chains_are_mixed_as_torchvisions(all_ops: bool, images: Tensor, seed: int, width: int, depth: int) -> None:
    """Image by image torchvision's AugMix itself gives the same bits from the same draws."""
    torch.manual_seed(seed)
    transform = T.AugMix(10, width, depth, 0.5, all_ops)
    params = transform.make_params([images])
    expected = torch.stack([mixing(image, row, BILINEAR) for image, row in zip(images, rows(params), strict=True)])
    assert torch.equal(transform.transform(images, params), expected)
    compute = torch.float64 if images.dtype == torch.float64 else torch.float32
    total = images.to(compute) * of_images(params["weights"][:, 0])
    for chain in range(width):
        out = images
        for step in range(params["transform_id"].shape[2]):
            which, magnitude = (params[name][:, chain, step] for name in ("transform_id", "magnitude"))
            out = apply_operation(out, which, magnitude, "bilinear", None)
        total = total + out.to(compute) * of_images(params["weights"][:, 1 + chain])
    # The mean of an image (contrast) is added up in an order that depends on the memory format.
    atol = 0.0 if images.dtype == torch.uint8 else 16 * torch.finfo(images.dtype).eps
    torch.testing.assert_close(transform.at_once(images, params), total.to(images.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shares_of_images_in_half_precision_are_added_in_float32(dtype: torch.dtype) -> None:
    images = torch.rand(4, 3, 9, 9).to(dtype)
    transform = T.AugMix(chain_depth=1, mixture_width=8)
    params = transform.make_params([images])
    params["transform_id"] = torch.zeros_like(params["transform_id"])
    assert (transform.transform(images, params) - images).abs().max() <= torch.finfo(dtype).eps


@by_name
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_float64_images(case: Case, channels: int) -> None:
    if channels == 1 and case.name in ("RandomErasing", "RandomRotation, bilinear", "RandAugment", "RandomGrayscale"):
        pytest.skip("has three numbers to fill with, or makes three channels")
    for dtype in (torch.uint8, torch.float64):
        images = torch.randint(0, 256, (3, channels, 20, 24), dtype=torch.uint8)
        images = images if dtype == torch.uint8 else images.to(dtype) / 255
        transform = case.make()
        params = transform.make_params([images])
        expected = torch.stack([case.reference(image, row) for image, row in zip(images, rows(params), strict=True)])
        slack = None if case.slack is None else case.slack(images, params)
        assert_close(transform.at_once(images, params), expected, images, case.tolerance, slack)


@by_name
def test_tv_tensors_and_empty_batches(case: Case) -> None:
    images = tv_tensors.Image(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8))
    transform = case.make()
    torch.manual_seed(3)
    out = transform(images)
    assert isinstance(out, tv_tensors.Image)
    torch.manual_seed(3)
    assert torch.equal(out, transform(images.as_subclass(Tensor)))
    assert transform(images.as_subclass(Tensor)[:0]).shape == (0, 3, 16, 16)


@by_name
def test_what_is_no_batch_of_images_is_refused(case: Case) -> None:
    transform = case.make()
    images = torch.zeros(4, 3, 20, 20)
    boxes = tv_tensors.BoundingBoxes(torch.zeros(4, 4), format="XYXY", canvas_size=(20, 20))
    for other in (boxes, tv_tensors.Mask(torch.zeros(4, 20, 20)), tv_tensors.Video(torch.zeros(4, 2, 3, 20, 20))):
        with pytest.raises(TypeError, match=f"transforms images and labels, not {type(other).__name__}"):
            transform(tv_tensors.Image(images), other)
    with pytest.raises(ValueError, match=r"needs batches \(N, C, H, W\)"):
        transform(images[0])
    with pytest.raises(TypeError, match="needs a tensor of images"):
        transform([F.to_pil_image(images[0])])
    labels = torch.arange(4)
    assert transform(images, labels)[1] is labels


def test_noise_is_normal_and_each_samples_own() -> None:
    images = torch.zeros(64, 3, 32, 32)
    erasing = T.RandomErasing(1.0, scale=(0.3, 0.33), value="random")
    params = erasing.make_params([images])
    out = erasing.transform(images, params)
    assert torch.equal(out, erasing.at_once(images, params))
    noise = out[out != 0]
    assert len(noise) > 50_000
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert len({image.numpy().tobytes() for image in out}) == 64
    with pytest.raises(ValueError, match="needs floating images"):
        erasing(images.to(torch.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.RandomRotation(10, expand=True), "expand should be False"),
        (lambda: T.RandomRotation(10, interpolation=v2.InterpolationMode.BICUBIC), "nearest or bilinear"),
        (lambda: T.RandomAffine(10, scale=(0, 1)), "scale values should be positive"),
        (lambda: T.RandomPerspective(2.0), "between 0 and 1"),
        (lambda: T.ColorJitter(hue=0.7), "hue values should be between"),
        (lambda: T.GaussianBlur(4), "odd and positive"),
        (lambda: T.GaussianBlur(9)(torch.zeros(2, 3, 4, 30)), "too small for a kernel"),
        (lambda: T.RandomErasing(inplace=True), "inplace should be False"),
        (lambda: T.RandomErasing(1.0, value=(1, 2))(torch.zeros(2, 3, 9, 9)), "value has 2 numbers"),
        (lambda: T.RandomApply([T.RandomResizedCrop(5)])(torch.zeros(2, 3, 9, 9)), "must not change the size"),
        (lambda: T.RandAugment(magnitude=31), "below num_magnitude_bins"),
        (lambda: T.AutoAugment("food"), "'food' is not a valid AutoAugmentPolicy"),
        (lambda: T.AutoAugment(interpolation="bicubic"), "nearest or bilinear"),
        (lambda: T.AugMix(severity=11), "severity must be between"),
        (lambda: T.AugMix(mixture_width=0), "mixture_width should be at least 1 and is 0"),
        (lambda: T.AugMix(alpha=0.0), "alpha should be above 0"),
        (lambda: T.train_preset("augmix", 8, mixup_alpha=-1.0), "mixup_alpha should be at least 0 and is -1.0"),
        (lambda: T.train_preset("augmix", 8, cutmix_alpha=float("nan")), "cutmix_alpha should be at least 0"),
        (lambda: T.train_preset("augmix", 8, erasing=1.5), "erasing should be at most 1 and is 1.5"),
        (
            lambda: T.RandomChoice([T.RandomResizedCrop(5), T.RandomResizedCrop(6)])(torch.zeros(40, 3, 9, 9)),
            "one size",
        ),
        (lambda: T.GaussianBlur(3).transform(torch.zeros(3, 3, 9, 9), {"sigma": torch.ones(2)}), "sigma has 2 entries"),
        (lambda: T.train_preset("wild", 8), "there is no preset 'wild'"),
        (lambda: T.RandomResizedCrop(8, interpolation="nearest"), "bilinear or bicubic"),
        (lambda: T.MixUp(alpha=0.0), "alpha should be above 0"),
        (lambda: T.MixUp()(torch.zeros(2, 3, 4, 4), torch.arange(2)), "num_classes must be passed"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.RandomApply([v2.RandomHorizontalFlip()]), "and not RandomHorizontalFlip"),
        (lambda: T.RandomChoice([T.MixUp(num_classes=2), T.GaussianBlur(3)]), "either MixUp and CutMix"),
        (lambda: T.RandomApply([T.MixUp(num_classes=2)]), "images alone"),
        (lambda: T.RandomApply([T.RandomChoice([T.MixUp(num_classes=2)])]), "images alone"),
        (lambda: T.GaussianBlur(3).make_params(cast(Any, torch.zeros(3, 3, 9, 9))), "takes a list of inputs"),
        (lambda: T.MixUp(num_classes=2)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2)), "floating"),
        (lambda: T.ColorJitter(0.5).at_once(torch.zeros(1, 2, 4, 4), {"fn_idx": torch.zeros(1, 4)}), "1 or 3 channels"),
    ],
)
def test_wrong_types_are_refused(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
