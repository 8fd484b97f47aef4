"""Philox against its authors' published vectors, and keys that give independent numbers."""

from __future__ import annotations

import pytest
import torch

from food101_fast.transforms.keyed import keyed_uniform, philox4x32

# From the known-answer file of Random123, the authors' own implementation: counter, key, result.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_published_vectors(counter: str, key: str, expected: str) -> None:
    state = tuple(torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    result = philox4x32(state, (k0, k1))  # type: ignore[arg-type]
    assert [int(word) for word in result] == words(expected)


def test_a_number_depends_on_nothing_but_its_key() -> None:
    ids = torch.tensor([5, 17, 2**40, 3])
    together = keyed_uniform(ids, 9, seed=1, epoch=2, place=3)
    for row, sample in enumerate(ids):
        alone = keyed_uniform(sample[None], 9, seed=1, epoch=2, place=3)
        assert torch.equal(alone[0], together[row])
    assert torch.equal(keyed_uniform(ids, 5, seed=1, epoch=2, place=3), together[:, :5])


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": 1 << 32}, {"epoch": 1}, {"place": 1}])
def test_other_keys_give_unrelated_numbers(other: dict[str, int]) -> None:
    ids = torch.arange(4096)
    base = keyed_uniform(ids, 4, seed=0, epoch=0, place=0)
    changed = keyed_uniform(ids, 4, **{"seed": 0, "epoch": 0, "place": 0, **other})
    correlation = torch.corrcoef(torch.stack([base.flatten(), changed.flatten()]))[0, 1]
    assert abs(correlation) < 4 / 128  # four standard errors of 16,384 pairs
    assert abs(torch.corrcoef(torch.stack([base[:-1, 0], base[1:, 0]]))[0, 1]) < 4 / 64


def test_numbers_are_uniform() -> None:
    numbers = keyed_uniform(torch.arange(20_000), 5, seed=9, epoch=0, place=0)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom: mean 99, standard deviation 14
