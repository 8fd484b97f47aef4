"""Our draws come as often as torchvision's: 20,000 of each, with fixed seeds.

Kolmogorov-Smirnov for numbers, chi-square for choices. A test fails below p = 1e-4; all seeds are fixed, so it either
always fails or never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torchvision.transforms import v2

from food101_fast import transforms as T
from food101_fast.transforms.operations import ALL_BUT_INVERT, INDEX, OPERATIONS, in_pixels, magnitude_table

COUNT = 20_000
Drawn = dict[str, NDArray[Any]]


def ours(transform: T.PerSampleTransform, height: int, width: int) -> Drawn:
    torch.manual_seed(1)
    params = transform.make_params([torch.empty(COUNT, 3, 1, 1).expand(-1, -1, height, width)])
    return {name: value.flatten(1).numpy() if value.ndim > 1 else value.numpy() for name, value in params.items()}


def theirs(transform: v2.Transform, height: int, width: int) -> Drawn:
    torch.manual_seed(2)
    image = [torch.empty(3, 1, 1).expand(-1, height, width)]
    drawn = [transform.make_params(image) for _ in range(COUNT)]
    return {
        name: np.array([np.asarray(params[name]) for params in drawn])
        for name in drawn[0]
        if drawn[0][name] is not None and name != "v"
    }


def assert_same(mine: NDArray[Any], other: NDArray[Any], name: str) -> None:
    """Also of each sum and difference of two columns, which is where a dependence between them shows."""
    mine, other = (drawn.reshape(len(drawn), -1).astype(float) for drawn in (mine, other))
    assert mine.shape[1] == other.shape[1], name
    columns = [(mine[:, i], other[:, i]) for i in range(mine.shape[1])]
    columns += [(a + sign * b, c + sign * d) for (a, c), (b, d) in pairwise(columns) for sign in (1, -1)]
    for first, second in columns:
        values = np.unique(second)
        if len(values) <= 60:
            table = np.array([[(drawn == value).sum() for value in values] for drawn in (first, second)])
            assert np.isin(first, values).mean() > 0.999, name
            table = table[:, table.sum(axis=0) > 20]
            p = stats.chi2_contingency(table).pvalue if table.shape[1] > 1 else 1.0
        else:
            p = stats.ks_2samp(first, second).pvalue
        assert p > 1e-4, name


CASES: list[tuple[str, dict[str, Any], int, int]] = [
    ("RandomResizedCrop", {"size": 8}, 100, 100),
    ("RandomResizedCrop", {"size": 8}, 60, 200),
    ("RandomResizedCrop", {"size": 8, "scale": (0.9, 1.0), "ratio": (0.5, 0.6)}, 40, 30),  # mostly the fallback
    ("RandomResizedCrop", {"size": 8, "scale": (0.5, 1.0)}, 10, 300),  # never anything else
    ("RandomRotation", {"degrees": (-20, 50)}, 30, 30),
    ("RandomAffine", {"degrees": 30, "translate": (0.1, 0.3), "scale": (0.5, 2.0), "shear": 15}, 40, 70),
    ("RandomAffine", {"degrees": (5, 6), "translate": (0.02, 0.01), "shear": (-1, 2, 3, 9)}, 64, 80),
    ("ColorJitter", {"brightness": 0.4, "contrast": (0.5, 3), "saturation": 2.0, "hue": 0.1}, 8, 8),
    ("GaussianBlur", {"kernel_size": 3}, 8, 8),
]


@pytest.mark.parametrize(("name", "options", "height", "width"), CASES, ids=[f"{c[0]}-{c[2]}x{c[3]}" for c in CASES])
def test_parameters_are_distributed_as_torchvisions(
    name: str, options: dict[str, Any], height: int, width: int
) -> None:
    mine = ours(getattr(T, name)(**options), height, width)
    other = theirs(getattr(v2, name)(**options), height, width)
    if name == "GaussianBlur":  # there the same number twice, for x and y
        other["sigma"] = other["sigma"][:, 0]
    assert set(mine) == set(other)
    for parameter, values in mine.items():
        assert_same(values, other[parameter], parameter)
    if name == "RandomResizedCrop":
        for first, second in (("height", "width"), ("top", "height")):
            assert_same(mine[first] * 1000 + mine[second], other[first] * 1000 + other[second], f"{first} and {second}")


@pytest.mark.parametrize(("height", "width"), [(30, 40), (101, 64)])
@pytest.mark.parametrize("distortion", [0.1, 0.5, 0.8])
def test_perspectives_are_distributed_as_torchvisions(height: int, width: int, distortion: float) -> None:
    mine = ours(T.RandomPerspective(distortion, p=0.3), height, width)
    torch.manual_seed(2)
    reference = v2.RandomPerspective(distortion)
    image = [torch.empty(3, height, width)]
    count = 3000  # each solves a system of equations
    other = np.array([reference.make_params(image)["coefficients"] for _ in range(count)])
    for column in range(8):  # rounded, since what is 0 in exact arithmetic is not 0 for a solver
        values = [drawn[:, column].astype(float).round(5) for drawn in (mine["coefficients"], other)]
        assert stats.ks_2samp(*values).pvalue > 1e-4
    assert mine["apply"].mean() == pytest.approx(0.3, abs=0.015)


def test_corners_on_a_line_change_nothing() -> None:
    """Only where all corners may meet in the middle; torchvision raises an error there."""
    transform = T.RandomPerspective(1.0, p=1.0)
    params = transform.make_params([torch.empty(COUNT, 3, 4, 4)])
    assert params["coefficients"].isfinite().all()
    assert 0.5 < params["apply"].double().mean() < 1
    still = transform.at_once(torch.ones(COUNT, 3, 4, 4), params)[~params["apply"]]
    assert still.equal(torch.ones_like(still))


@pytest.mark.parametrize(
    ("options", "height", "width"),
    [({}, 64, 64), ({"scale": (0.5, 0.9), "ratio": (0.1, 10)}, 20, 60), ({"scale": (0.9, 1.0), "ratio": (2, 3)}, 9, 9)],
)
def test_rectangles_are_distributed_as_torchvisions(options: dict[str, Any], height: int, width: int) -> None:
    mine = ours(T.RandomErasing(1.0, **options), height, width)
    torch.manual_seed(2)
    reference = v2.RandomErasing(1.0, **options)
    drawn = [reference.make_params([torch.empty(3, height, width)]) for _ in range(COUNT)]
    other = {name: np.array([params[name] for params in drawn]) for name in "ijhw"}
    happened = np.array([params["v"] is not None for params in drawn])
    assert_same(mine["apply"], happened, "ten tries that all fail")
    for name in "ijhw":
        assert_same(mine[name], other[name], name)
    assert_same(mine["h"] * 1000 + mine["w"], other["h"] * 1000 + other["w"], "h and w")


@pytest.mark.parametrize(
    "make", [T.RandomHorizontalFlip, T.RandomVerticalFlip, T.RandomGrayscale, lambda p: T.RandomErasing(p)]
)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_transforms_come_with_their_probability(make: Callable[[float], T.PerSampleTransform], p: float) -> None:
    applied = ours(make(p), 32, 32)["apply"].mean()
    assert applied == pytest.approx(p, abs=0.015 if 0 < p < 1 else 0)


def test_random_apply_and_random_choice() -> None:
    apply = ours(T.RandomApply([T.RandomHorizontalFlip(0.2)], p=0.7), 8, 8)
    assert apply["apply"].mean() == pytest.approx(0.7, abs=0.015)
    assert apply["0.apply"][apply["apply"]].mean() == pytest.approx(0.2, abs=0.015)
    flips = [T.RandomHorizontalFlip(), T.RandomVerticalFlip(), T.RandomGrayscale()]
    for p, expected in ((None, [1 / 3, 1 / 3, 1 / 3]), ([1, 0, 3], [0.25, 0.0, 0.75])):
        choice = ours(T.RandomChoice(flips, p=p), 8, 8)["choice"]
        assert np.bincount(choice, minlength=3) / COUNT == pytest.approx(expected, abs=0.015)


def noting(transform: Any, image: Any, count: int) -> list[list[tuple[str, float, bool]]]:
    """What each of `count` calls of a transform of torchvision draws.

    Operations, their magnitudes, and whether they get the image itself.
    """
    noted: list[tuple[str, float, bool]] = []
    original: list[Any] = []

    def note(given: Any, transform_id: str, magnitude: float, **_: Any) -> Any:
        original[:] = original or [given]
        noted.append((transform_id, magnitude, given is original[0]))
        return given.clone()

    transform._apply_image_or_video_transform = note
    torch.manual_seed(2)
    calls = []
    for _ in range(count):
        noted.clear()
        original.clear()
        transform(image)
        calls.append(noted.copy())
    return calls


def test_operations_are_distributed_as_torchvisions() -> None:
    mine = ours(T.TrivialAugmentWide(), 32, 32)
    drawn = noting(v2.TrivialAugmentWide(), torch.zeros(3, 32, 32, dtype=torch.uint8), COUNT)
    which = np.array([OPERATIONS.index(name) for ((name, _, _),) in drawn])
    magnitudes = np.array([magnitude for ((_, magnitude, _),) in drawn])
    assert_same(mine["transform_id"], which, "transform_id")
    for index, name in enumerate(ALL_BUT_INVERT):
        first, second = mine["magnitude"][mine["transform_id"] == index], magnitudes[which == index]
        assert np.allclose(np.unique(first.round(4)), np.unique(second.round(4)), atol=1e-3), name
        assert stats.ks_2samp(first.round(4), second.round(4)).pvalue > 1e-4, name


@pytest.mark.parametrize(
    ("mine", "other"),
    [(T.TrivialAugmentWide(), v2.TrivialAugmentWide()), (T.RandAugment(), v2.RandAugment())],
    ids=["TrivialAugmentWide", "RandAugment"],
)
def test_magnitudes_mean_the_same(mine: Any, other: Any) -> None:
    ranges = mine.ranges(120, 300)
    assert tuple(other._AUGMENTATION_SPACE) == ALL_BUT_INVERT
    for name, (magnitudes, _) in other._AUGMENTATION_SPACE.items():
        values = magnitudes(31, 120, 300)
        assert (name in ranges) == (values is not None)
        if values is not None:
            assert ranges[name] == pytest.approx((float(values[0]), float(values[-1])))


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(policy, marks=[pytest.mark.slow] * (policy is not T.AutoAugmentPolicy.IMAGENET))
        for policy in T.AutoAugmentPolicy
    ],
)
def test_policies_are_distributed_as_torchvisions(policy: T.AutoAugmentPolicy) -> None:
    """All that a sample gets, operations in their order with magnitudes and signs, as one choice of many."""
    mine = ours(T.AutoAugment(policy), 64, 200)
    drawn = zip(mine["transform_id"].tolist(), mine["magnitude"].round(3).tolist(), strict=True)
    chosen = [Counter(tuple((i, m) for i, m in zip(*both, strict=True) if i) for both in drawn)]
    calls = noting(v2.AutoAugment(policy), torch.zeros(3, 64, 200, dtype=torch.uint8), COUNT)
    chosen.append(Counter(tuple((INDEX[name], float(np.float32(m).round(3))) for name, m, _ in c) for c in calls))
    outcomes = [outcome for outcome, count in (chosen[0] + chosen[1]).items() if count > 20]
    assert len(outcomes) > 50
    table = [[counts[outcome] for outcome in outcomes] for counts in chosen]
    assert sum(map(sum, table)) > 0.97 * 2 * COUNT
    assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(("severity", "depth", "all_ops"), [(3, -1, True), (10, 2, False)])
def test_chains_are_distributed_as_torchvisions(severity: int, depth: int, all_ops: bool) -> None:
    """Their depths, operations, magnitudes and signs."""
    count, width, deepest = 2000, 3, max(depth, 3 if depth < 0 else 0)
    theirs = v2.AugMix(severity, width, depth, all_ops=all_ops)
    chains: list[list[tuple[int, float]]] = []
    for call in noting(theirs, torch.zeros(3, 60, 90, dtype=torch.uint8), count):
        for name, magnitude, is_first in call:
            if is_first:
                chains.append([])
            chains[-1].append((INDEX[name], magnitude))
    assert len(chains) == count * width
    padded = np.array([[*chain, *[(0, 0.0)] * (deepest - len(chain))] for chain in chains])
    mine = ours(T.AugMix(severity, width, depth, all_ops=all_ops), 60, 90)
    which, magnitudes = (mine[name].astype(float).reshape(-1, deepest) for name in ("transform_id", "magnitude"))
    assert_same((which > 0).sum(axis=1), (padded[..., 0] > 0).sum(axis=1), "depth")
    for step in range(deepest):
        assert_same(which[:, step:], padded[:, step:, 0], "transform_id")
        for index in range(1, len(ALL_BUT_INVERT)):
            first, second = (
                magnitudes[:, step][which[:, step] == index],
                padded[:, step, 1][padded[:, step, 0] == index],
            )
            assert np.allclose(np.unique(first.round(3)), np.unique(second.round(3)), atol=2e-3), index
            assert len(first) == 0 or stats.ks_2samp(first.round(3), second.round(3)).pvalue > 1e-4, index


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("alpha", [1.0, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.2, 4.0))])
def test_shares_of_chains_are_distributed_as_torchvisions(width: int, alpha: float) -> None:
    mine = ours(T.AugMix(mixture_width=width, alpha=alpha), 8, 8)["weights"]
    torch.manual_seed(2)
    own, chains = (torch._sample_dirichlet(torch.full((COUNT, parts), alpha)) for parts in (2, width))
    theirs = torch.cat([own[:, :1], chains * own[:, 1:]], dim=1).numpy()
    assert_same(mine[:, :-1].astype(float).round(5), theirs[:, :-1].astype(float).round(5), "weights")
    assert mine.min() >= 0
    assert mine.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_magnitudes_are_torchvisions() -> None:
    """To the bit, but for shifts, which are rounded in another order."""
    for theirs in (v2.AutoAugment(), v2.AugMix()):
        table = magnitude_table(theirs._AUGMENTATION_SPACE, 10)
        which = torch.arange(len(OPERATIONS))[:, None].expand(-1, 10)
        got = in_pixels(which, table, 120, 300)
        for name, (magnitudes, _) in theirs._AUGMENTATION_SPACE.items():
            expected = magnitudes(10, 120, 300)
            expected = torch.zeros(10) if expected is None else expected.float()
            rtol = 1e-6 if name.startswith("Translate") else 0.0
            torch.testing.assert_close(got[INDEX[name]], expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("alpha", [0.2, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (1.0, 4.0))])
def test_shares_and_boxes_are_distributed_as_torchvisions(alpha: float) -> None:
    mixup = ours(T.MixUp(alpha=alpha, num_classes=3), 40, 60)
    assert_same(mixup["lam"], theirs(v2.MixUp(alpha=alpha, num_classes=3), 40, 60)["lam"], "lam")
    mine = ours(T.CutMix(alpha=alpha, num_classes=3), 40, 60)
    other = theirs(v2.CutMix(alpha=alpha, num_classes=3), 40, 60)
    assert_same(mine["box"], other["box"], "box")
    assert_same(mine["lam_adjusted"].astype(float).round(5), other["lam_adjusted"].round(5), "lam_adjusted")
