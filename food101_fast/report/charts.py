"""Charts as SVG that take their colors from the page, and so follow its light and dark style."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from food101_fast.evaluate.metrics import CALIBRATION_BINS
from food101_fast.fonts import short
from food101_fast.runs.metrics import Calibration

# Placeholders for colors of the style sheet: matplotlib draws with the key, the page shows the value.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
_IN_PAGE = {_INK: "var(--ink)", _MUTED: "var(--muted)", _GRID: "var(--line)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)
}
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), "-.")
_SIZE = (4.4, 2.9)  # inches; so small that text can be read on a phone

Series = Mapping[str, Sequence[float | None]]


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "food101_fast",
            "font.size": 9,
            "text.color": _INK,
            "axes.edgecolor": _MUTED,
            "axes.labelcolor": _MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": _GRID,
            "xtick.color": _MUTED,
            "ytick.color": _MUTED,
            "legend.frameon": False,
            "legend.labelcolor": _INK,
        }
    ):
        yield


def _as_svg(figure: Figure, label: str) -> Markup:
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The browser has other fonts than matplotlib, which only measures the text.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for drawn, shown in _IN_PAGE.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|legend|matplotlib\.axis|xtick|ytick|[A-Za-z]+Collection)_\d+"', "", svg
    )
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    head = Markup('<svg role="img" aria-label="{}" ').format(label)
    svg = re.sub(r'^<svg (.*?)width="[^"]*" height="[^"]*"', lambda found: str(head) + found[1], svg, flags=re.DOTALL)
    svg = re.sub(r'height="[\d.]+pt" ?|width="[\d.]+pt" ?', "", svg)
    return Markup(svg)


def _in_legend(name: str) -> str:
    """A name without meaning for matplotlib: dollars are formulas, and what starts with _ is left out of a legend."""
    shown = short(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def line_chart(
    epochs: Sequence[int], series: Series, label: str, *, share: bool = False, top: float | None = None
) -> Markup:
    """A line chart of numbers over the epochs.

    Args:
        epochs: epoch numbers of the longest series.
        series: by name; shorter ones end earlier, and None leaves a gap.
        label: of the vertical axis.
        share: whether the numbers are shares, shown in percent.
        top: upper end of the vertical axis.
    """
    with _style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes: Axes = figure.subplots()
        for number, (name, values) in enumerate(series.items()):
            numbers = [np.nan if value is None else value for value in values]
            axes.plot(
                epochs[: len(values)],
                numbers,
                color=SERIES[number % len(SERIES)],
                linestyle=_DASHES[number % len(_DASHES)],
                marker="o",
                markersize=2.5,
                label=_in_legend(name),
            )
        axes.set(xlabel="epoch", ylabel=label, xlim=(0.5, len(epochs) + 0.5))
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=len(series) if len(series) < 4 else 2)
        return _as_svg(figure, f"{label} over the epochs: {', '.join(series)}")


def reliability_chart(calibration: Calibration) -> Markup:
    """Accuracy against confidence in bins, and below it the number of samples in each bin."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    centers, width = (edges[:-1] + edges[1:]) / 2, 1 / CALIBRATION_BINS
    accuracy = [np.nan if value is None else value for value in calibration.accuracy]
    with _style():
        figure = Figure(figsize=(_SIZE[0], 3.6), layout="constrained")
        above, below = figure.subplots(nrows=2, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", linewidth=1, label="as sure as right")
        above.bar(centers, accuracy, width * 0.9, color=SERIES[0], label="accuracy of the bin")
        above.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
        above.legend(loc="upper left")
        below.bar(centers, calibration.count, width * 0.9, color=SERIES[2])
        below.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
        below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        for axes in (above, below):
            axes.set_axisbelow(True)
        return _as_svg(figure, "Reliability: accuracy of predictions by their confidence")


def size_chart(sizes: Sequence[int], recalls: Sequence[float], means: Sequence[tuple[float, float]]) -> Markup:
    """Recall of each class against its number of training images, on a logarithmic axis.

    Args:
        sizes: training images of each class.
        recalls: of each class, between 0 and 1.
        means: for each group of classes its mean size and mean recall, the smallest size first.
    """
    with _style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes: Axes = figure.subplots()
        axes.plot(sizes, recalls, color=SERIES[0], linestyle="", marker="o", markersize=3.5, alpha=0.7, label="a class")
        axes.plot(*zip(*means, strict=True), color=SERIES[1], marker="s", markersize=5, label="mean of similar classes")
        axes.set(xlabel="training images of the class", ylabel="recall", xscale="log", ylim=(-0.03, 1.03))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.legend(loc="outside upper left", ncols=2)
        return _as_svg(figure, f"Recall of {len(sizes)} classes by their number of training images")
