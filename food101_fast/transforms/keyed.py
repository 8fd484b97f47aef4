"""Random numbers that are a pure function of (seed, epoch, sample id, place): Philox4x32-10 in plain tensor arithmetic.

A counter-based generator has no state to save, gives a sample the same draw in any batch, on any rank and on any
device, and is nothing but integer arithmetic, so it compiles. (An explicit `torch.Generator` breaks a compiled graph.)

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, with its constants.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF
_NOISE_SEED = 0x6E6F697365  # "noise": another stream than that of any sensible seed

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two 32-bit numbers held in int64, in halves so that nothing overflows."""
    low_part = constant * (word & 0xFFFF)
    high_part = constant * (word >> 16) + (low_part >> 16)
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors of one shape, with values below 2**32.
        key: two numbers below 2**32.

    Returns:
        Four int64 tensors of that shape, with values below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def keyed_uniform(ids: Tensor, draws: int, *, seed: int, epoch: int | Tensor, place: int) -> Tensor:
    """Uniform numbers for each sample that depend on nothing but the arguments and the sample's own id.

    Args:
        ids: (N,) int64 global sample ids, not negative.
        draws: how many numbers each sample needs.
        seed: the run's seed, below 2**64.
        epoch: epoch number, below 2**32; a number, or a tensor () on the device of `ids`.
        place: the transform's place in its preset, below 2**16.

    Returns:
        float32 (N, draws) in [0, 1), multiples of 2**-24, on the device of `ids`.
    """
    blocks = -(-draws // 4)
    block = torch.arange(blocks, device=ids.device, dtype=torch.int64)
    sample = ids.to(torch.int64)[:, None].expand(-1, blocks)
    counter = (
        sample & _MASK,
        sample >> 32,
        torch.zeros_like(sample) + epoch,
        (block + (place << 16)).expand(ids.shape[0], -1),
    )
    words = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    numbers = torch.stack(words, dim=-1).flatten(1)[:, :draws]
    return (numbers >> 8).to(torch.float32) * 2.0**-24


def normal_noise(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that follow from a key of each sample's own.

    Source: G. Box and M. Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).

    Args:
        keys: int64 (N,), not negative, below 2**48.
        shape: of the noise of one sample.

    Returns:
        float32 (N, *shape), on the device of `keys`.
    """
    count = math.prod(shape)
    uniform = keyed_uniform(keys, 2 * count, seed=_NOISE_SEED, epoch=0, place=0)
    # 1 - u is never 0, whose logarithm is not finite.
    radius = torch.sqrt(-2.0 * torch.log(1.0 - uniform[:, :count]))
    return (radius * torch.cos(2.0 * math.pi * uniform[:, count:])).view(-1, *shape)
