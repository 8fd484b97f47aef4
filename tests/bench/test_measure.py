"""How rates are measured, on a clock that the works themselves move."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from food101_fast.bench.measure import Event, Observer, Pending, measure, measure_within, median_of_ratios
from tests.bench.simulated import Clock

CPU = torch.device("cpu")


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


class Device:
    """A device that works through a queue, beside a host that only fills it; both on one clock.

    Args:
        host: seconds that the host needs to queue a work.
        each: seconds that the device needs for a work.
    """

    def __init__(self, host: float, each: float) -> None:
        self.clock = Clock()
        self.host, self.each = host, each
        self.ends: list[float] = []
        self.most_pending = 0

    def work(self) -> float:
        self.clock.now += self.host
        self.ends.append(max([self.clock.now, *self.ends[-1:]]) + self.each)
        self.most_pending = max(self.most_pending, sum(end > self.clock.now for end in self.ends))
        return 1.0

    def wait(self) -> None:
        self.clock.now = max([self.clock.now, *self.ends[-1:]])

    def new_event(self) -> Event:
        ends, clock = self.ends, self.clock

        class Recorded:
            def record(self) -> None:
                self.end = ends[-1]

            def synchronize(self) -> None:
                clock.now = max(clock.now, self.end)

        return Recorded()

    def measured(self, *, bounded: bool) -> list[float]:
        pending = Pending(self.new_event if bounded else None, self.wait)
        works = {"a": self.work}
        return measure(works, seconds=0.3, repetitions=3, device=CPU, clock=self.clock, pending=pending)["a"]


@pytest.mark.parametrize(("host", "each"), [(0.001, 0.02), (0.001, 1.0), (0.02, 0.001), (0.0001, 0.0001)])
def test_a_device_never_has_more_than_four_works_ahead(host: float, each: float) -> None:
    device = Device(host, each)
    assert device.measured(bounded=True) == pytest.approx([1 / max(host, each)] * 3, rel=0.15)
    assert device.most_pending <= 4
    works = 4 * max(0.3 / max(host, each), 1)  # in four rounds
    assert len(device.ends) <= 1.2 * works + 5 * 4 + 1


def test_by_the_clock_of_the_host_alone_seconds_of_work_are_queued() -> None:
    device = Device(0.001, 0.02)
    device.measured(bounded=False)
    assert device.most_pending > 250


def test_a_round_is_begun_only_if_it_ends_before_the_deadline() -> None:
    clock = Clock()
    works = {"a": clock.work("a", 3.0, 6.0), "b": clock.work("b", 0.125, 1.0)}
    found = measure_within(works, seconds=0.5, repetitions=100, device=CPU, deadline=60.0, clock=clock)
    assert 50.0 < clock.now <= 60.0
    assert len(found.rates["a"]) == len(found.rates["b"]) > 10
    assert not found.warm_up_only
    assert found.warm_up_seconds == 3.125 + 3.5


@pytest.mark.parametrize(
    ("deadline", "seconds", "rounds"), [(30.0, 0.5, 5), (10.0, 0.25, 5), (7.0, 0.125, 5), (4.5, 0.125, 2)]
)
def test_repetitions_are_shortened_where_more_of_them_fit_then(deadline: float, seconds: float, rounds: int) -> None:
    clock = Clock()
    works = {name: clock.work(name, 1 / 64, 1.0) for name in "abcde"}
    found = measure_within(works, seconds=0.5, repetitions=5, device=CPU, deadline=deadline, clock=clock)
    assert clock.now <= deadline
    assert found.seconds == seconds
    assert {len(rates) for rates in found.rates.values()} == {rounds}


def test_without_time_for_more_the_warm_up_is_what_was_measured() -> None:
    clock = Clock()
    found = measure_within(
        {"a": clock.work("a", 3.0, 6.0)}, seconds=0.1, repetitions=7, device=CPU, deadline=7.0, clock=clock
    )
    assert (found.rates, found.warm_up_only, clock.now) == ({"a": [2.0]}, True, 6.0)


def test_a_work_that_becomes_slower_ends_the_measurement_early() -> None:
    clock = Clock()

    def work() -> float:
        clock.now += 1.0 if clock.now < 10 else 5.0  # another program begins
        return 1.0

    found = measure_within({"a": work}, seconds=0.1, repetitions=100, device=CPU, deadline=40.0, clock=clock)
    assert clock.now <= 40.0
    assert found.rates["a"][:8] == [1.0] * 8


def test_the_observer_hears_of_the_warm_up_and_of_each_round() -> None:
    clock = Clock()
    heard: list[object] = []

    class Listener(Observer):
        def doing(self, name: str) -> None:
            heard.append(name)

        def warmed_up(self, rates: Mapping[str, list[float]], rounds: int) -> None:
            heard.append(("warmed up", dict(rates), rounds))

        def finished(self, number: int, rates: Mapping[str, list[float]]) -> None:
            heard.append((number, len(rates["a"])))

    works = {"a": clock.work("a", 1.0, 2.0)}
    measure_within(works, seconds=1, repetitions=9, device=CPU, deadline=5.0, clock=clock, observer=Listener())
    assert heard == ["a", "a", ("warmed up", {"a": [2.0]}, 2), "a", (1, 1), "a", (2, 2)]
