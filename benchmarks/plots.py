"""The plots of docs/benchmarks.md, each a function of the files in benchmarks/results.

A PNG says in its text field `Results` which results it was drawn from, so that a stale one is found.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash
from figures import RESULTS, bench_stages, result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from peer_blocks import loaders as loader_reports
from PIL import Image

from food101_fast.bench.ceilings import MATRIX, MEMORY, shares
from food101_fast.plots import plot_sweep
from food101_fast.storage import write_atomically

DOCS = Path(__file__).resolve().parents[1] / "docs" / "img"
FIELD = "Results"
OURS, OTHERS, CEILING = "#1f6f8b", "#b9c4c9", "#d98c3f"


@dataclass(frozen=True)
class Plot:
    """One picture."""

    results: tuple[str, ...]
    """That it is drawn from."""
    draw: Callable[[], Figure]

    def digest(self) -> str:
        """Of the results."""
        return xxhash.xxh3_64_hexdigest(b"".join((RESULTS / f"{name}.json").read_bytes() for name in self.results))


def _figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, height), layout="constrained", dpi=120)
    return figure, figure.subplots(1, columns)


def _plain(axes: Axes, grid: Literal["x", "both"] = "both") -> None:
    """No frame, a faint grid behind everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


def _bars(axes: Axes, names: list[str], rates: Sequence[Sequence[float]], colors: list[str], unit: str) -> None:
    """Horizontal bars of medians with the range of the repetitions."""
    medians = [statistics.median(values) for values in rates]
    below = [middle - min(values) for middle, values in zip(medians, rates, strict=True)]
    above = [max(values) - middle for middle, values in zip(medians, rates, strict=True)]
    positions = range(len(names))
    axes.barh(positions, medians, color=colors, height=0.7)
    axes.errorbar(medians, positions, xerr=[below, above], fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    _plain(axes, "x")


def loaders() -> Figure:
    """Images per second of every loader."""
    figure, both = _figure(4.6, 2)
    ceiling = result("peers-cpu")["loading"]["memcpy_images_per_second"]
    for axes, encoding in zip(both, ("raw", "jpeg"), strict=True):
        reports = loader_reports(encoding)
        names = [report["name"] for report in reports]
        rates = [report["images_per_second"] for report in reports]
        colors = [OURS if name.startswith("food101_fast") else OTHERS for name in names]
        if encoding == "raw":
            names, rates = ["memcpy, 1 thread", *names], [ceiling, *rates]
            colors = [CEILING, *colors]
        _bars(axes, names, rates, colors, "images per second")
        axes.set_title({"raw": "raw rows of 192 px", "jpeg": "JPEG of 192 px"}[encoding], loc="left")
    return figure


# Offsets in points, where another label is above the point.
_BESIDE = {"food101_fast": (0, -16), "kornia, crop_and_resize": (-150, 2), "grid_sample": (60, -14)}


def resizing() -> Figure:
    """Error against speed of ways to crop and resize."""
    figure, axes = _figure(4.2)
    found = result("exactness-cpu")["resizing"]
    least = 1e-5
    for name, rates in found["images_per_second"].items():
        error = max(found["errors"][name]["largest"], least)
        color = OURS if name.startswith("food101_fast") else "#6b7780"
        middle = statistics.median(rates)
        axes.plot([min(rates), max(rates)], [error, error], color=color, linewidth=1.5, alpha=0.5)
        axes.plot(middle, error, "o", color=color)
        axes.annotate(
            name, (middle, error), _BESIDE.get(name, (0, 9)), textcoords="offset points", color=color, ha="center"
        )
    axes.axhspan(least / 3, 1, color=OURS, alpha=0.06, linewidth=0)
    across = axes.get_yaxis_transform()
    axes.text(0.99, 0.6, "below one step of 8 bits", transform=across, ha="right", va="top", color=OURS)
    axes.set(
        yscale="log",
        ylim=(least / 3, 300),
        xlabel="images per second",
        ylabel="largest error, steps of 1/255 (none: lowest)",
    )
    axes.set_xlim(left=0)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _plain(axes)
    return figure


def ceilings() -> Figure:
    """Share of its hardware limit that each stage reaches."""
    figure, axes = _figure(3.8)
    found = result("stages-cpu")
    stages = {name: stage for name, stage in bench_stages(found).items() if stage.ceiling is not None}
    own = {MEMORY: OURS, MATRIX: CEILING}
    percent = []
    for stage in stages.values():
        assert stage.ceiling is not None
        assert stage.amount_per_image is not None
        most = found["ceilings"][stage.ceiling]["repetitions"]
        percent.append([100 * share for share in shares(stage.repetitions, stage.amount_per_image, most)])
    colors = [own.get(stage.ceiling or "", OTHERS) for stage in stages.values()]
    _bars(axes, list(stages), percent, colors, "% of hardware limit")
    axes.axvline(100, color="#333333", linewidth=1)
    for name, color in own.items():
        axes.plot([], [], "s", color=color, label=name)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def threads() -> Figure:
    """Images per second of the loader over its threads."""
    figure, both = _figure(3.6, 2)
    for axes, encoding in zip(both, ("raw", "jpeg"), strict=True):
        runs = result(f"threads-{encoding}-cpu")
        numbers = [run["loading"]["threads"] for run in runs]
        rates = [run["stages"]["loader"]["repetitions"] for run in runs]
        axes.fill_between(numbers, [min(of) for of in rates], [max(of) for of in rates], color=OURS, alpha=0.15, lw=0)
        axes.plot(numbers, [statistics.median(of) for of in rates], "o-", color=OURS)
        axes.axvline(runs[0]["loading"]["cores"], color=CEILING, linestyle="--", linewidth=1)
        axes.set(title=encoding, xlabel="threads (dashed: cores)", ylabel="images per second")
        axes.set_xticks(numbers)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        _plain(axes)
    return figure


def batches() -> Figure:
    """Images per second of the stages of training over the size of a batch."""
    runs = result("batch-cpu")
    rates = [{name: stage.repetitions for name, stage in bench_stages(run).items()} for run in runs]
    return plot_sweep("batch_size", [run["settings"]["recipe"]["batch_size"] for run in runs], rates)


PLOTS: dict[str, Plot] = {
    "loaders": Plot(("peers-cpu",), loaders),
    "resizing": Plot(("exactness-cpu",), resizing),
    "ceilings": Plot(("stages-cpu",), ceilings),
    "threads": Plot(("threads-raw-cpu", "threads-jpeg-cpu"), threads),
    "batches": Plot(("batch-cpu",), batches),
}
"""By the name of their file in docs/img."""


def drawn_from(name: str) -> str | None:
    """The digest of the results that the picture in docs/img was drawn from; None if there is no picture."""
    try:
        with Image.open(DOCS / f"{name}.png") as image:
            return str(image.info.get(FIELD))
    except FileNotFoundError:
        return None


def draw(name: str) -> None:
    """Draw a picture into docs/img."""
    stream = io.BytesIO()
    PLOTS[name].draw().savefig(stream, format="png", metadata={FIELD: PLOTS[name].digest()})
    write_atomically(DOCS / f"{name}.png", stream.getvalue())
