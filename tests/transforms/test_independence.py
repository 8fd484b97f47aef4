"""One draw per sample: copies come out different; a seed, or a key, decides everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from food101_fast import transforms as T
from food101_fast.transforms.keyed import keyed_uniform
from tests.transforms.cases import CASES, Case

by_name = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
COPIES = 32


def copies() -> Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))  # no rounding makes two alike
    return image.expand(COPIES, -1, -1, -1)


def different(images: Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


@by_name
def test_copies_of_one_image_come_out_different(case: Case) -> None:
    torch.manual_seed(0)
    outcomes = different(case.make()(copies()))
    if case.continuous:
        # Of one image erased with p = 0.8 several may stay as they are.
        assert outcomes == COPIES or (case.name == "RandomErasing" and outcomes > 15)
    else:
        assert outcomes >= 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (T.RandomResizedCrop(32), v2.RandomResizedCrop(32)),
        (T.RandomRotation(180), v2.RandomRotation(180)),
        (T.RandomAffine(180), v2.RandomAffine(180)),
        (T.RandomPerspective(p=1.0), v2.RandomPerspective(p=1.0)),
        (T.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        (T.GaussianBlur(5, (0.5, 2.0)), v2.GaussianBlur(5, (0.5, 2.0))),
        (T.RandomErasing(1.0), v2.RandomErasing(1.0)),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_no_two_are_alike_where_torchvisions_all_are(ours: T.PerSampleTransform, theirs: v2.Transform) -> None:
    assert isinstance(ours, type(theirs))
    torch.manual_seed(0)
    assert different(ours(copies())) == COPIES
    assert different(theirs(copies().clone())) == 1


@by_name
def test_torchs_seed_decides(case: Case) -> None:
    transform, results = case.make(), []
    images = torch.randint(0, 256, (COPIES, 3, 20, 20), dtype=torch.uint8)
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        results.append(transform(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@by_name
def test_parameters_of_a_sample_depend_on_its_numbers_alone(case: Case) -> None:
    transform = case.make()
    uniform = torch.rand(9, transform.draws)
    together = transform.params_from(uniform, 30, 40)
    for index in range(9):
        for name, value in transform.params_from(uniform[index : index + 1], 30, 40).items():
            assert value.shape[0] == 1
            assert torch.equal(value[0], together[name][index])


def keys() -> Iterator[tuple[str, dict[str, int]]]:
    """Seeds, epochs and indices that differ in one bit, or in which two of them are swapped."""
    base = {"seed": 0, "epoch": 0, "index": 0}
    yield "base", base
    for name, values in {
        "seed": (1, 2, 3, 255, 1 << 31, 1 << 32, (1 << 32) + 1),
        "epoch": (1, 2, 3, 1000, 1 << 16),
        "index": (1, 2, 3, 7, 100),
    }.items():
        for value in values:
            yield f"{name} {value}", {**base, name: value}


def test_all_keys_are_uncorrelated() -> None:
    """Compare every pair of 18 keys, with 4,096 samples and 6 draws each.

    If a key is only added, shifted or xor-ed into a weak counter, the numbers of another key or sample come again.
    """
    drawn = {name: keyed_uniform(torch.arange(4096), 6, **key).numpy() for name, key in keys()}
    columns = np.concatenate(list(drawn.values()), axis=1)
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    bound = 5.5 / np.sqrt(4096)  # of 5,778 pairs, each beyond it with probability 4e-8
    assert np.abs(correlations).max() < bound
    for lag in (1, 2, 16, 256):  # and of samples that are neighbors
        shifted = np.corrcoef(columns[:-lag].T, columns[lag:].T)
        assert np.abs(shifted[: columns.shape[1], columns.shape[1] :]).max() < bound
    everything = np.concatenate([values.ravel() for values in drawn.values()])
    repeated = everything.size - np.unique(everything).size
    # Of n numbers out of 2**24, n**2 / 2**25 repeat by chance.
    assert repeated == pytest.approx(everything.size**2 / 2**25, rel=0.1)


def weak(ids: Tensor, draws: int, *, seed: int, epoch: int, index: int) -> Tensor:
    """A key that is only added to the sample's number."""
    generator = np.random.default_rng(0).random((1 << 17, draws), dtype=np.float32)
    return torch.from_numpy(generator[(ids.numpy() + seed % 2**16 + epoch + index) % (1 << 17)])


def test_a_weak_key_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "keyed_uniform", weak)
    with pytest.raises(AssertionError):
        test_all_keys_are_uncorrelated()


def test_one_bit_of_a_key_changes_half_of_a_number() -> None:
    ids = torch.arange(2000)
    bits = [(keyed_uniform(ids, 4, **key) * 2**24).long() for _, key in keys()]
    for first, second in pairwise(bits):
        changed = (first ^ second)[..., None] >> torch.arange(24) & 1
        assert changed.double().mean() == pytest.approx(0.5, abs=0.005)
        assert (changed.double().mean(dim=(0, 1)) - 0.5).abs().max() < 0.03


@pytest.mark.parametrize("make", [T.MixUp, T.CutMix])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_mixing_equals_torchvisions_of_two(make: Callable[..., T.MixUp | T.CutMix], dtype: torch.dtype) -> None:
    if make is T.MixUp and dtype == torch.uint8:
        pytest.skip("MixUp is for floating images")
    images = torch.randint(0, 256, (9, 3, 14, 18), dtype=torch.uint8)
    images = images if dtype == torch.uint8 else images.float() / 255
    labels = torch.arange(9) % 4
    ours, theirs = make(num_classes=4), getattr(v2, make.__name__)(num_classes=4)
    torch.manual_seed(1)
    mixed, soft = ours(images, labels)
    torch.manual_seed(1)
    params = ours.make_params([images])
    assert sorted(params["partner"].tolist()) == list(range(9))
    assert (params["partner"] != torch.arange(9)).all()
    for index, partner in enumerate(params["partner"].tolist()):
        pair, both = images[[index, partner]], labels[[index, partner]]
        row = {name: value[index].tolist() for name, value in params.items() if name != "partner"}
        expected = [theirs.transform(inpt, {**row, "labels": both, "batch_size": 2})[0] for inpt in (pair, both)]
        assert (mixed[index].double() - expected[0].double()).abs().max() <= 1e-6
        assert (soft[index] - expected[1]).abs().max() <= 1e-6
    assert soft.shape == (9, 4)
    assert torch.allclose(soft.sum(dim=1), torch.ones(9))
    assert len(set(params["lam" if make is T.MixUp else "lam_adjusted"].tolist())) > 5
    again = ours.mix(images, torch.nn.functional.one_hot(labels, 4), params)
    assert torch.equal(again[1], soft)


def test_a_choice_of_mixings_mixes_images_and_labels_alike() -> None:
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 20, 20)
    choice = T.RandomChoice([T.MixUp(num_classes=6), T.CutMix(num_classes=6)])
    mixed, soft = choice(images, torch.arange(6))
    # Image k is k everywhere, so that the mean of a mixture is that of its labels.
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), soft @ torch.arange(6.0), atol=1e-4)
    torch.manual_seed(0)
    chosen = T.RandomChoice([T.MixUp(num_classes=6), T.CutMix(num_classes=6)]).make_params([images.repeat(20, 1, 1, 1)])
    assert set(chosen["choice"].tolist()) == {0, 1}
