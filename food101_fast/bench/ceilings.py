"""What the machine itself can do: copying memory, copying to and on the device, multiplying matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from food101_fast.bench.measure import Work
from food101_fast.bench.results import StageResult

MEMORY, MATRIX, HOST_TO_DEVICE, DEVICE = "memory copy", "matrix product", "host to device copy", "device copy"
"""Their names: bytes copied per second, floating point operations per second, and bytes copied per second twice."""

# Larger than any cache, and small enough to be copied many times in a repetition.
_HOST_BYTES, _DEVICE_BYTES = 64 << 20, 256 << 20
_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


def share_text(stage: StageResult) -> str:
    """What a measured stage uses of its ceiling, in words; empty if it has none."""
    if stage.ceiling is None or stage.amount_per_image is None:
        return ""
    unit = "GFLOP/s" if stage.ceiling == MATRIX else "GB/s"
    used = stage.images_per_second * stage.amount_per_image / 1e9
    return f"{used:,.1f} {unit}, {stage.share_of_ceiling:.0%} of {stage.ceiling}"


def shares(rates: Sequence[float], amount: float, most: Sequence[float]) -> list[float]:
    """What a stage uses of its ceiling, repetition by repetition.

    Args:
        rates: images per second.
        amount: bytes or floating point operations per image.
        most: of those, what the machine did per second.
    """
    return [rate * amount / limit for rate, limit in zip(rates, most, strict=True)]


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, Work]:
    """For each ceiling what measures it; each returns bytes, or floating point operations for the matrix product.

    Args:
        device: where the training step is computed.
        dtype: in which it multiplies.
    """
    if device.type == "cpu" and dtype == torch.float16:
        dtype = torch.float32  # there are processors that multiply half precision far slower: no ceiling
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
