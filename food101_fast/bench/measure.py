"""Rates of several things, measured in turns in one run: a warm-up apart, then repetitions of which all are kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], float]
"""Does something once, and returns how much: images, bytes, or floating point operations."""


def measure(
    works: Mapping[str, Work],
    *,
    seconds: float,
    repetitions: int,
    device: torch.device,
    primes: Mapping[str, Callable[[], object]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Rates per second of each work, `repetitions` of them.

    The works take turns, so that whatever else the machine does meets them all, and figures of one repetition can be
    compared with each other; every other repetition goes through them backwards, so that none always follows the same
    one. The device is waited for before each reading of the clock and nowhere else. Each work is done once, and then
    for one repetition, before anything counts.

    Args:
        works: by name.
        seconds: length of a repetition; each lasts at least one go.
        repetitions: that count.
        device: that is waited for.
        primes: what to do before a repetition of a work, outside its time.
        clock: seconds.
    """
    primes = primes or {}
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repetitions + 1):
        turns = list(works.items())
        for name, work in reversed(turns) if repetition % 2 else turns:
            if name in primes:
                primes[name]()
            wait_for(device)
            amount, start = 0.0, clock()
            while not amount or clock() - start < seconds:
                amount += work()
            wait_for(device)
            if repetition:
                rates[name].append(amount / (clock() - start))
    return rates


def wait_for(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_of_ratios(over: list[float], under: list[float]) -> float:
    """The median over the repetitions of one rate over another, each pair measured shortly after each other."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
