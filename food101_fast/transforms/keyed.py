"""Random numbers that are a pure function of (seed, epoch, sample id, index of the transform): Philox4x32-10.

A counter-based generator has no state to save. A sample gets the same numbers in any batch, on any rank and on any
device. It is only integer arithmetic on tensors, so it compiles. (An explicit `torch.Generator` breaks a compiled
graph.)

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
_NOISE_SEED = 0x6E6F697365  # "noise" in ASCII: a stream that no usual seed has

PER_BLOCK = 4
"""Numbers that one call of Philox returns for one counter."""

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two 32-bit numbers in int64, without overflow.

    Both multipliers are between 3 / 4 * 2**32 and 2**32. So `constant - 2**32` is above -2**30, and its product with a
    word fits into int64. The rest of the product, word * 2**32, only changes the high half.
    """
    product = word * (constant - (1 << 32))
    return (product >> 32) + word, product & _MASK


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors that broadcast together, with values below 2**32.
        key: two numbers below 2**32.

    Returns:
        Four int64 tensors of the broadcast shape, with values below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def blocks_of(draws: int, index: int, device: torch.device | None = None) -> Tensor:
    """The last words of the counters for `draws` numbers of transform number `index`: int64 (blocks,)."""
    first = index << 16
    return torch.arange(first, first - (-draws // PER_BLOCK), device=device)


def uniform_of_blocks(ids: Tensor, blocks: Tensor, *, seed: int, epoch: int | Tensor) -> Tensor:
    """Uniform numbers for each sample and block, all from one call of Philox.

    A number depends only on the seed, the epoch, the sample's id and the block.

    Args:
        ids: (N,) int64 global sample ids, not negative.
        blocks: (B,) int64, of `blocks_of`, of one or several transforms, on the device of `ids`.
        seed: the run's seed, below 2**64.
        epoch: epoch number, below 2**32; a number, or an integer tensor () on the device of `ids`.

    Returns:
        float32 (N, 4 * B) in [0, 1), multiples of 2**-24, on the device of `ids`.
    """
    sample = ids.to(torch.int64)[:, None]
    number = epoch if isinstance(epoch, Tensor) else torch.full((), epoch, device=ids.device)
    counter = (sample & _MASK, sample >> 32, number.to(torch.int64), blocks)
    numbers = torch.stack(philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK)), dim=-1).flatten(1)
    return (numbers >> 8).to(torch.float32) * 2.0**-24


def keyed_uniform(ids: Tensor, draws: int, *, seed: int, epoch: int | Tensor, index: int) -> Tensor:
    """Uniform numbers for each sample that depend only on the sample's id and the other arguments.

    Args:
        ids: (N,) int64 global sample ids, not negative.
        draws: numbers for each sample.
        seed: the run's seed, below 2**64.
        epoch: epoch number, below 2**32; a number, or an integer tensor () on the device of `ids`.
        index: the transform's index in its preset, below 2**16.

    Returns:
        float32 (N, draws) in [0, 1), multiples of 2**-24, on the device of `ids`.
    """
    return uniform_of_blocks(ids, blocks_of(draws, index, ids.device), seed=seed, epoch=epoch)[:, :draws]


def normal_noise(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that are a function of each sample's key.

    Source: G. Box and M. Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958).

    Args:
        keys: int64 (N,), not negative, below 2**48.
        shape: of the noise of one sample.

    Returns:
        float32 (N, *shape), on the device of `keys`.
    """
    count = math.prod(shape)
    uniform = keyed_uniform(keys, 2 * count, seed=_NOISE_SEED, epoch=0, index=0)
    # 1 - u is never 0, so the logarithm is finite.
    radius = torch.sqrt(-2.0 * torch.log(1.0 - uniform[:, :count]))
    return (radius * torch.cos(2.0 * math.pi * uniform[:, count:])).view(-1, *shape)
