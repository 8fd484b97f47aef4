"""Progress of a measurement, on stderr."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from food101_fast.bench.measure import Observer
from food101_fast.bench.works import WHOLE
from food101_fast.progress import bar, note


class Progress(Observer):
    """Lines on stderr that say how far a measurement is; on a terminal also a bar that names the current stage.

    Args:
        begun: reading of `time.perf_counter` when the command started.
        title: of the whole measurement; the first words of each line.
    """

    def __init__(self, begun: float, title: str = "bench") -> None:
        self._begun, self._title = begun, title
        self._rounds = 0
        self._first_answer: Callable[[Mapping[str, list[float]]], str | None] = lambda rates: None
        self._bar = bar(bar_format="{desc}", leave=False, only_live=True)

    def say(self, text: str) -> None:
        """Write a line on stderr, with the seconds since the start."""
        note(f"{self._title}: {time.perf_counter() - self._begun:3.0f} s: {text}")

    def answer_with(self, answer: Callable[[Mapping[str, list[float]]], str | None]) -> None:
        """Let `answer` say in words what the rates of the warm-up mean."""
        self._first_answer = answer

    def doing(self, name: str) -> None:
        """Show the stage on the bar."""
        self._bar.set_description_str(f"{self._title}: measuring {name}")

    def warmed_up(self, rates: Mapping[str, list[float]], rounds: int) -> None:
        """Say what the warm-up suggests."""
        self._rounds = rounds
        answer = self._first_answer(rates)
        self.say("warmed up" if answer is None else f"first look: {answer}")

    def finished(self, number: int, rates: Mapping[str, list[float]]) -> None:
        """Say which round is done, with the median rate up to now."""
        name = WHOLE if WHOLE in rates else next(iter(rates))
        rate = statistics.median(rates[name])
        self.say(f"round {number} of {max(self._rounds, number)}: {name} {rate:,.0f} images/s")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
