"""The same measurement for several values of one setting, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from food101_fast.bench.progress import Progress
from food101_fast.bench.results import BenchResult
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import run_bench
from food101_fast.errors import UserError
from food101_fast.plots import plot_sweep, png
from food101_fast.storage import write_atomically, writing

_COLUMN = 10  # least width of a value in the table
_SWEPT = ("batch_size", "image_size", "threads", "prefetch", "model")


def parse_sweep(text: str) -> tuple[str, list[int | str]]:
    """Name and values of a sweep such as `batch_size=64,128`.

    Raises:
        UserError: the text has another form, or names another setting than batch_size, image_size, threads, prefetch
            or model.
    """
    name, _, listed = text.partition("=")
    name = name.replace("-", "_")
    values = [value for value in listed.split(",") if value]
    if name not in _SWEPT or not values:
        raise UserError(f"--sweep {text} should be like batch_size=64,128, of one of {', '.join(_SWEPT)}")
    if name == "model":
        return name, list(values)
    if not all(value.isdigit() and int(value) > 0 for value in values):
        raise UserError(f"--sweep {text}: values of {name} are whole numbers above 0")
    return name, [int(value) for value in values]


def run_sweep(
    settings: BenchSettings,
    name: str,
    values: Sequence[int | str],
    stages: tuple[str, ...] | None,
    begun: float | None = None,
) -> list[BenchResult]:
    """Results of `run_bench`, one for each value, each within the budget.

    Args:
        settings: what is measured.
        name: setting that is swept; if it is batch_size, no batch is reduced to save time.
        values: values of that setting.
        stages: see `run_bench`.
        begun: reading of `time.perf_counter` when the command started; progress is then shown on stderr.
    """
    results = []
    for value in values:
        changed = _changed(settings, name, value)
        with nullcontext() if begun is None else Progress(begun, f"bench, {name} {value}") as progress:
            results.append(run_bench(changed, stages, keep_batch=name == "batch_size", progress=progress))
    return results


def _changed(settings: BenchSettings, name: str, value: int | str) -> BenchSettings:
    """The settings with another value for one of them."""
    change: Any = {name: value}  # `replace` has no type for a field that is named at run time
    if name in ("threads", "prefetch"):
        return replace(settings, loading=replace(settings.loading, **change))
    return replace(settings, **change)


def sweep_table(name: str, values: Sequence[int | str], results: Sequence[BenchResult]) -> str:
    """Images per second: a row for each stage, a column for each value."""
    width = max(_COLUMN, *(len(str(value)) + 2 for value in values))
    lines = [f"{name.replace('_', ' '):<24}" + "".join(f"{value!s:>{width}}" for value in values)]
    for stage in results[0].findings.stages:
        rates = (result.findings.stages[stage].images_per_second for result in results)
        lines.append(f"{stage:<24}" + "".join(f"{rate:>{width},.1f}" for rate in rates))
    return "\n".join(lines)


def write_sweep_plot(name: str, values: Sequence[int | str], results: Sequence[BenchResult], path: Path) -> None:
    """Draw the rates of a sweep into a PNG file.

    Raises:
        UserError: the file can't be written.
    """
    rates = [{stage: one.repetitions for stage, one in result.findings.stages.items()} for result in results]
    content = png(plot_sweep(name, values, rates))
    with writing(path, "or give another --plot"):
        write_atomically(path, content)
