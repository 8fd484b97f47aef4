"""The files of benchmarks/results, and how their figures are written in Markdown."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from food101_fast.bench.results import StageResult
from food101_fast.documents import convert

RESULTS = Path(__file__).resolve().parent / "results"

Rates = Sequence[float]


@functools.cache
def result(name: str) -> Any:
    """The JSON of a file in benchmarks/results."""
    return orjson.loads((RESULTS / f"{name}.json").read_bytes())


def bench_stages(document: dict[str, Any]) -> dict[str, StageResult]:
    """The stages of a result of bench."""
    return convert(document["stages"], dict[str, StageResult], where="benchmarks/results", advice="measure again")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def whole(value: float) -> str:
    """A figure without decimals: 1,234."""
    return f"{value:,.0f}"


def median(rates: Rates) -> str:
    """The median of repetitions as text."""
    return whole(statistics.median(rates))


def spread(rates: Rates) -> list[str]:
    """Median and range as text."""
    return [median(rates), f"{whole(min(rates))} to {whole(max(rates))}"]


def fastest_first(rates: dict[str, Rates]) -> list[str]:
    """Names by their medians."""
    return sorted(rates, key=lambda name: -statistics.median(rates[name]))
