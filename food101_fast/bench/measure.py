"""Rates of several works, measured in turns within a time limit: a warm-up, then repetitions that count."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Work = Callable[[], float]
"""Does something once, and returns how much: images, bytes, or floating point operations."""

MOST_PENDING = 4
"""Works that may be queued on a CUDA device. The host runs ahead of the device: without a limit, a repetition of 0.3 s
could queue works for 5 s."""

_SHORTER = (1.0, 0.5, 0.25)
"""How much a repetition may be shortened, so that more of them fit into the time."""

_MARGIN = 1.1
"""A round starts only if the time of the round before, times this factor, still fits."""


class Event(Protocol):
    """The methods of `torch.cuda.Event` that are used here."""

    def record(self) -> object:
        """Mark this position in the device's queue."""

    def synchronize(self) -> object:
        """Wait until the device has done everything before that mark."""


class Pending:
    """Keeps the host at most `MOST_PENDING` works ahead of the device.

    Args:
        new_event: makes an event; None for a device that does each work at once.
        synchronize: waits until the device has done everything.
    """

    def __init__(self, new_event: Callable[[], Event] | None, synchronize: Callable[[], object]) -> None:
        self._new_event = new_event
        self._events: deque[Event] = deque()
        self.synchronize = synchronize

    @classmethod
    def of(cls, device: torch.device) -> Pending:
        """For a CUDA device, with events that don't spin while they wait; for others, without a limit."""

        def new_event() -> Event:
            return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

        return cls(new_event if device.type == "cuda" else None, lambda: wait_for(device))

    def run(self, work: Work) -> float:
        """Do `work`, after waiting until fewer than `MOST_PENDING` are pending; returns what it returns."""
        if self._new_event is None:
            return work()
        if len(self._events) == MOST_PENDING:
            self._events.popleft().synchronize()
        amount = work()
        event = self._new_event()
        event.record()
        self._events.append(event)
        return amount


@dataclass
class Round:
    """One turn of every work.

    Attributes:
        rates: of each work, per second.
        go: seconds of one call of each work.
        rest: seconds of the round outside the timed repetitions.
    """

    rates: dict[str, float]
    go: dict[str, float]
    rest: float

    def seconds(self, repetition: float) -> float:
        """How long such a round lasts with repetitions of so many seconds."""
        return self.rest + sum(max(math.ceil(repetition / go), 1) * go for go in self.go.values())


@dataclass(frozen=True)
class Measurement:
    """What `measure_within` found.

    Attributes:
        rates: of each work per second, by repetition; the lists are of equal length.
        seconds: length of a repetition, as it was in the end.
        warm_up_seconds: how long the warm-up took, with whatever was compiled in it.
        warm_up_only: there was no time for more than the warm-up, and `rates` are its own.
    """

    rates: dict[str, list[float]]
    seconds: float
    warm_up_seconds: float
    warm_up_only: bool


class Observer:
    """Hears of the progress of a measurement; this one ignores it."""

    def doing(self, name: str) -> None:
        """The work `name` runs next."""

    def warmed_up(self, rates: Mapping[str, list[float]], rounds: int) -> None:
        """The warm-up is over: its rates, a list of one each, and how many rounds are expected to follow."""

    def finished(self, number: int, rates: Mapping[str, list[float]]) -> None:
        """Round `number`, counted from 1, is over: all rates up to now."""


def measure(
    works: Mapping[str, Work],
    *,
    seconds: float,
    repetitions: int,
    device: torch.device,
    primes: Mapping[str, Callable[[], object]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    pending: Pending | None = None,
) -> dict[str, list[float]]:
    """Rates per second of each work, `repetitions` of them, however long that takes; see `measure_within`."""
    return measure_within(
        works,
        seconds=seconds,
        repetitions=repetitions,
        device=device,
        primes=primes,
        clock=clock,
        pending=pending,
    ).rates


def measure_within(
    works: Mapping[str, Work],
    *,
    seconds: float,
    repetitions: int,
    device: torch.device,
    deadline: float = math.inf,
    primes: Mapping[str, Callable[[], object]] | None = None,
    observer: Observer | None = None,
    clock: Callable[[], float] = time.perf_counter,
    pending: Pending | None = None,
) -> Measurement:
    """Rates per second of each work, at most `repetitions` of them.

    The works take turns, so that other load on the machine affects all of them, and rates of one round can be compared.
    Every other round runs them backwards, so that no work always follows the same one. The clock is read only after
    the device is idle, and at most four works are queued on the device. Each work runs once, and then for one
    repetition, before anything counts.

    A round starts only if it is expected to end before the deadline, and repetitions are shortened, down to a
    quarter, where that lets all rounds end before it. The warm-up is always done.

    Args:
        works: by name.
        seconds: length of a repetition; each lasts at least one call.
        repetitions: most repetitions that count.
        device: the device that the works run on.
        deadline: reading of `clock` before which the measurement should end.
        primes: called before each repetition of a work, outside its time.
        observer: hears of the progress.
        clock: returns seconds.
        pending: limits what is queued on the device; chosen by the device by default.
    """
    turns = _Turns(
        works=works,
        primes=primes or {},
        observer=observer or Observer(),
        clock=clock,
        pending=pending or Pending.of(device),
    )
    began = clock()
    turns.each_once()
    last = turns.round(0, seconds)
    warm_up_seconds = clock() - began
    seconds = _repetition(last, seconds, repetitions, deadline - clock())
    warm_up = {name: [rate] for name, rate in last.rates.items()}
    fitting = (deadline - clock()) / (_MARGIN * last.seconds(seconds))
    turns.observer.warmed_up(warm_up, int(min(repetitions, max(fitting, 0))))
    rates: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1, repetitions + 1):
        if clock() + _MARGIN * last.seconds(seconds) > deadline:
            break
        last = turns.round(number, seconds)
        for name, rate in last.rates.items():
            rates[name].append(rate)
        turns.observer.finished(number, rates)
    counted = all(rates.values())
    return Measurement(rates if counted else warm_up, seconds, warm_up_seconds, warm_up_only=not counted)


@dataclass(frozen=True, kw_only=True)
class _Turns:
    """The works that take turns, and how each is timed; see `measure_within`."""

    works: Mapping[str, Work]
    primes: Mapping[str, Callable[[], object]]
    observer: Observer
    clock: Callable[[], float]
    pending: Pending

    def each_once(self) -> None:
        """Do every work once, so that whatever it compiles or allocates is there."""
        for name, work in self.works.items():
            self.observer.doing(name)
            self.pending.run(work)

    def round(self, number: int, seconds: float) -> Round:
        """Time every work for a repetition of so many seconds, backwards in every other round."""
        order = list(self.works.items())
        began, timed = self.clock(), 0.0
        done = Round({}, {}, 0.0)
        for name, work in reversed(order) if number % 2 else order:
            self.observer.doing(name)
            if name in self.primes:
                self.primes[name]()
            amount, goes, took = self._repeated(work, seconds)
            timed += took
            done.rates[name], done.go[name] = amount / took, took / goes
        done.rest = self.clock() - began - timed
        return done

    def _repeated(self, work: Work, seconds: float) -> tuple[float, int, float]:
        """What a work did in a repetition, in how many calls, and in how many seconds."""
        self.pending.synchronize()
        amount, goes, start = 0.0, 0, self.clock()
        while not amount or self.clock() - start < seconds:
            amount += self.pending.run(work)
            goes += 1
        self.pending.synchronize()
        return amount, goes, self.clock() - start


def _repetition(warm_up: Round, seconds: float, repetitions: int, left: float) -> float:
    """The longest allowed repetition with which all repetitions end in time; if there is none, the shortest one."""
    lengths = [factor * seconds for factor in _SHORTER]
    return next((one for one in lengths if repetitions * _MARGIN * warm_up.seconds(one) <= left), lengths[-1])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done everything in its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_of_ratios(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over the repetitions of one rate over another, each pair measured shortly after each other."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
