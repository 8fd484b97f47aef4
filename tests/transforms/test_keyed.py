"""Philox against its authors' published vectors, and keys that give independent numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from food101_fast import transforms as T
from food101_fast.transforms.keyed import Words, keyed_uniform, philox4x32

# From the known-answer file of Random123, the authors' own implementation: counter, key, result.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def tensors(counter: list[int]) -> Words:
    first, second, third, fourth = (torch.tensor([word]) for word in counter)
    return first, second, third, fourth


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_published_vectors(counter: str, key: str, expected: str) -> None:
    k0, k1 = words(key)
    result = philox4x32(tensors(words(counter)), (k0, k1))
    assert [int(word) for word in result] == words(expected)


def test_a_number_depends_on_nothing_but_its_key() -> None:
    ids = torch.tensor([5, 17, 2**40, 3])
    together = keyed_uniform(ids, 9, seed=1, epoch=2, index=3)
    for row, sample in enumerate(ids):
        alone = keyed_uniform(sample[None], 9, seed=1, epoch=2, index=3)
        assert torch.equal(alone[0], together[row])
    assert torch.equal(keyed_uniform(ids, 5, seed=1, epoch=2, index=3), together[:, :5])


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": 1 << 32}, {"epoch": 1}, {"index": 1}])
def test_other_keys_give_unrelated_numbers(other: dict[str, int]) -> None:
    ids = torch.arange(4096)
    base = keyed_uniform(ids, 4, seed=0, epoch=0, index=0)
    changed = keyed_uniform(ids, 4, **{"seed": 0, "epoch": 0, "index": 0, **other})
    correlation = torch.corrcoef(torch.stack([base.flatten(), changed.flatten()]))[0, 1]
    assert abs(correlation) < 4 / 128  # four standard errors of 16,384 pairs
    assert abs(torch.corrcoef(torch.stack([base[:-1, 0], base[1:, 0]]))[0, 1]) < 4 / 64


def test_numbers_are_uniform() -> None:
    numbers = keyed_uniform(torch.arange(20_000), 5, seed=9, epoch=0, index=0)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom: mean 99, standard deviation 14


def test_golden_numbers() -> None:
    """Those of the first release: a run that is resumed draws what it would have drawn."""
    ids = torch.tensor([0, 2**40 + 9])
    for key, expected in (
        (
            {"seed": 7, "epoch": 3, "index": 2},
            [
                [8750059, 2286351, 13170024, 5044219, 345386, 10634138],
                [16508843, 12151053, 11902183, 12492623, 6856736, 11346088],
            ],
        ),
        (
            {"seed": 2**63 + 5, "epoch": 2**31, "index": 65535},
            [
                [3177531, 4099407, 7937012, 9241545, 2344597, 10126018],
                [11029788, 6025150, 13552053, 10588645, 12852697, 10658690],
            ],
        ),
    ):
        assert (keyed_uniform(ids, 6, **key) * 2**24).long().tolist() == expected


def philox_of_integers(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The generator in Python's integers, which have no width."""
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return counter


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.integers(0, 2**64 - 1))
def test_no_word_overflows(counter: list[int], key: int) -> None:
    pair = (key % (1 << 32), key >> 32)
    got = philox4x32(tensors(counter), pair)
    assert [int(word) for word in got] == philox_of_integers(counter, pair)


def drawing(draws: int, kept: list[Tensor]) -> T.PerSampleTransform:
    """A transform that keeps the numbers that it is given, and changes nothing."""

    class Drawing(T.RandomHorizontalFlip):
        def params_from(self, uniform: Tensor, height: int, width: int) -> dict[str, Tensor]:
            kept.append(uniform)
            return super().params_from(uniform, height, width)

    transform = Drawing()
    transform.draws = draws
    return transform


@settings(max_examples=30, deadline=None)
@given(
    draws=st.lists(st.one_of(st.none(), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1, max_size=5),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=3),
    as_tensor=st.booleans(),
)
def test_a_preset_draws_for_all_what_each_would_draw_alone(
    draws: list[list[int] | None], seed: int, epoch: int, ids: list[int], as_tensor: bool
) -> None:
    """By the index of a transform, whatever stands around it; transforms in a container share the container's index."""
    kept: dict[int, list[Tensor]] = {}
    transforms: list[v2.Transform] = []
    for index, several in enumerate(draws):
        kept[index] = []
        if several is None:  # draws nothing
            transforms.append(T.CenterCrop(4))
        elif len(several) == 1:
            transforms.append(drawing(several[0], kept[index]))
        else:
            transforms.append(T.RandomApply([drawing(count, kept[index]) for count in several]))
    T.Preset(transforms)(
        torch.zeros(len(ids), 3, 4, 4),
        seed=seed,
        epoch=torch.tensor(epoch) if as_tensor else epoch,
        ids=torch.tensor(ids),
    )
    for index, several in enumerate(draws):
        own = 1 if several is not None and len(several) > 1 else 0  # the container's coin comes first
        blocks = (own + sum(several or ())) // 4 + 1
        for row, sample in enumerate(ids):
            words = [
                word
                for block in range(blocks)
                for word in philox_of_integers(
                    [sample % (1 << 32), sample >> 32, epoch, (index << 16) + block], (seed % (1 << 32), seed >> 32)
                )
            ]
            got = [(number * 2**24).long().item() for uniform in kept[index] for number in uniform[row]]
            assert got == [word >> 8 for word in words[own : own + len(got)]]
            assert len(got) == sum(several or ())
