"""Hardware limits: copying memory, copying to and on the device, multiplying matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from food101_fast.bench.measure import Work
from food101_fast.bench.results import StageResult

MEMORY, MATRIX, HOST_TO_DEVICE, DEVICE = "memory copy", "matrix product", "host to device copy", "device copy"
"""Names of the limits. A matrix product is counted in floating point operations per second, the others in bytes."""

# Larger than any cache, and small enough to be copied many times in a repetition.
_HOST_BYTES, _DEVICE_BYTES = 64 << 20, 256 << 20
_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


def share_text(stage: StageResult) -> str:
    """How much of its hardware limit a stage uses, in words; empty if it has none."""
    if stage.ceiling is None or stage.amount_per_image is None:
        return ""
    unit = "GFLOP/s" if stage.ceiling == MATRIX else "GB/s"
    used = stage.images_per_second * stage.amount_per_image / 1e9
    return f"{used:,.1f} {unit}, {stage.share_of_ceiling:.0%} of {stage.ceiling}"


def shares(rates: Sequence[float], amount: float, most: Sequence[float]) -> list[float]:
    """Share of its hardware limit that a stage uses, between 0 and 1, for each round.

    Args:
        rates: images per second.
        amount: bytes or floating point operations per image.
        most: the limit: bytes or floating point operations per second.
    """
    return [rate * amount / limit for rate, limit in zip(rates, most, strict=True)]


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, Work]:
    """A work for each hardware limit; it returns bytes, or floating point operations for the matrix product.

    Args:
        device: the device that the training step runs on.
        dtype: the type in which it multiplies matrices.
    """
    if device.type == "cpu" and dtype == torch.float16:
        dtype = torch.float32  # some processors multiply half precision far slower, so it would not be a limit
    source, target = np.ones(_HOST_BYTES, np.uint8), np.ones(_HOST_BYTES, np.uint8)

    def copy_memory() -> float:
        np.copyto(target, source)  # in one thread
        return _HOST_BYTES

    side = _MATRIX_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)

    def multiply() -> float:
        torch.mm(left, right, out=product)
        return 2.0 * side**3

    works: dict[str, Work] = {MEMORY: copy_memory, MATRIX: multiply}
    if device.type == "cuda":
        pinned = torch.ones(_DEVICE_BYTES, dtype=torch.uint8).pin_memory()
        one, other = (torch.ones(_DEVICE_BYTES, dtype=torch.uint8, device=device) for _ in range(2))

        def send() -> float:
            one.copy_(pinned, non_blocking=True)
            return _DEVICE_BYTES

        def copy_on_device() -> float:
            other.copy_(one)
            return _DEVICE_BYTES

        works |= {HOST_TO_DEVICE: send, DEVICE: copy_on_device}
    return works
