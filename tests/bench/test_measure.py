"""How rates are measured, on a clock that the works themselves move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from food101_fast.bench.measure import measure, median_of_ratios

CPU = torch.device("cpu")


class Clock:
    """Seconds, and who moved them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, amount: float) -> Callable[[], float]:
        def done() -> float:
            self.now += seconds
            self.calls.append(name)
            return amount

        return done


def test_works_take_turns_after_a_warm_up() -> None:
    clock = Clock()
    works = {"a": clock.work("a", 0.25, 10.0), "b": clock.work("b", 0.5, 4.0)}
    rates = measure(works, seconds=0.5, repetitions=2, device=CPU, clock=clock)
    assert rates == {"a": [40.0, 40.0], "b": [8.0, 8.0]}
    assert clock.calls == ["a", "b", *["a", "a", "b"], *["b", "a", "a"], *["a", "a", "b"]]


def test_what_primes_a_work_is_outside_its_time() -> None:
    clock = Clock()
    works = {"a": clock.work("a", 1.0, 1.0)}
    primes = {"a": clock.work("prime", 5.0, 0.0)}
    assert measure(works, seconds=0.5, repetitions=1, device=CPU, primes=primes, clock=clock) == {"a": [1.0]}
    assert clock.calls == ["a", "prime", "a", "prime", "a"]


def test_a_work_longer_than_a_repetition_is_done_once() -> None:
    clock = Clock()
    rates = measure({"a": clock.work("a", 3.0, 6.0)}, seconds=0.1, repetitions=3, device=CPU, clock=clock)
    assert rates == {"a": [2.0, 2.0, 2.0]}


def test_ratios_are_of_the_same_repetition() -> None:
    assert median_of_ratios([2.0, 40.0, 9.0], [1.0, 10.0, 3.0]) == pytest.approx(3.0)
