"""The same measurement for several values of one setting, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from food101_fast.bench.progress import Progress
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import run_bench
from food101_fast.errors import UserError
from food101_fast.plots import png
from food101_fast.storage import write_atomically, writing

_SWEPT = ("batch_size", "image_size", "threads", "prefetch", "model")


def parse_sweep(text: str) -> tuple[str, list[int | str]]:
    """Name and values of `batch_size=64,128`.

    Raises:
        UserError: it is not of that form, or names something else than batch_size, image_size, threads, prefetch or
            model.
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
) -> list[dict[str, Any]]:
    """The results of `run_bench`, one for each value, each within the budget.

    Args:
        settings: what is measured.
        name: of the setting that is changed; where it is batch_size, no batch is reduced to save time.
        values: of it.
        stages: see `run_bench`.
        begun: reading of `time.perf_counter` when the command began, to report progress on stderr.
    """
    results = []
    for value in values:
        changed: dict[str, Any] = {name: value}
        if name in ("threads", "prefetch"):
            changed = {"loading": replace(settings.loading, **changed)}
        with nullcontext() if begun is None else Progress(begun, f"bench, {name} {value}") as progress:
            changed_settings = replace(settings, **changed)
            results.append(run_bench(changed_settings, stages, keep_batch=name == "batch_size", progress=progress))
    return results


def sweep_table(name: str, values: Sequence[int | str], results: Sequence[dict[str, Any]]) -> str:
    """Images per second: a row for each stage, a column for each value."""
    lines = [f"{name.replace('_', ' '):<26}" + "".join(f"{value!s:>14}" for value in values)]
    for stage in results[0]["stages"]:
        rates = (result["stages"][stage]["images_per_second"] for result in results)
        lines.append(f"{stage:<26}" + "".join(f"{rate:>14,.1f}" for rate in rates))
    return "\n".join(lines)


def sweep_figure(name: str, values: Sequence[int | str], results: Sequence[dict[str, Any]]) -> Figure:
    """Images per second of each stage over the values, with the range of the repetitions."""
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    numbers = [float(value) for value in values] if name != "model" else list(range(len(values)))
    for number, stage in enumerate(results[0]["stages"]):
        found = [result["stages"][stage] for result in results]
        rates = [one["images_per_second"] for one in found]
        (line,) = axes.plot(
            numbers, rates, marker="o", markersize=4, label=stage, linestyle=("-", "--", ":")[number % 3]
        )
        lowest, highest = ([pick(one["repetitions"]) for one in found] for pick in (min, max))
        axes.fill_between(numbers, lowest, highest, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel=name.replace("_", " "), ylabel="images per second", yscale="log")
    if name != "model" and len(values) > 1:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    everything = [rate for result in results for stage in result["stages"].values() for rate in stage["repetitions"]]
    # Over less than two decades there is room, and need, for figures between the powers of ten.
    axes.yaxis.set_minor_formatter("{x:,.0f}" if max(everything) < 100 * min(everything) else NullFormatter())
    axes.set_xticks(numbers, [str(value) for value in values])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def plot_sweep(name: str, values: Sequence[int | str], results: Sequence[dict[str, Any]], path: Path) -> None:
    """`sweep_figure` as a PNG file."""
    content = png(sweep_figure(name, values, results))
    with writing(path, "or give another --plot"):
        write_atomically(path, content)
