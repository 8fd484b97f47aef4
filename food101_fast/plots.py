"""Every PNG that matplotlib draws, of runs and data sets; without pyplot, so no screen and no global state matter."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from food101_fast.fonts import drawable, families_for, short

Curves = Mapping[str, Sequence[float]]

_DPI = 120
_MANY_CLASSES = 20  # above this, labels get smaller and the cells of a matrix have no numbers
MOST_NAMED = 160
"""Above this number of classes pictures no longer grow, and have no names of classes."""
_LARGEST = 14.0  # inches, of a picture without names: more than a pixel for each of 1,000 cells
# Of the palette for all kinds of color vision by Okabe and Ito (https://jfly.uni-koeln.de/color/).
_COLORS = ("#0072b2", "#e69f00", "#009e73")


def png(figure: Figure, *, tight: bool = False) -> bytes:
    """A figure as a PNG file; `tight` trims the empty border."""
    stream = BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight" if tight else None, pad_inches=0.15)
    return stream.getvalue()


def _label(name: str) -> str:
    return name.replace("_", " ")


def _names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names as matplotlib draws them, cut to a readable length, and the font families to draw them with."""
    cut = [short(_label(name)) for name in names]
    families = families_for(cut)
    # A pair of dollars would be a formula.
    return [drawable(name, families).replace("$", r"\$") for name in cut], families


def _axes(figure: Figure, **grid: Any) -> Any:
    axes = figure.subplots(**grid)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def plot_confusion(shares: NDArray[np.float64], classes: Sequence[str]) -> Figure:
    """Heat map of a confusion matrix whose rows add up to 1.

    Args:
        shares: (classes, classes); with more than `MOST_NAMED` classes also (groups, groups) of as many neighboring
            classes each.
        classes: their names.
    """
    if len(classes) > MOST_NAMED:
        return _plot_large_confusion(shares, len(classes))
    import seaborn  # here and below, since prepare draws without it and need not import it

    few = len(classes) <= _MANY_CLASSES
    side = max(5.0, 0.62 * len(classes)) if few else 0.19 * len(classes) + 3
    figure = Figure(figsize=(side + 1.2, side), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    seaborn.heatmap(
        shares,
        ax=axes,
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        annot=few,
        fmt=".2f",
        annot_kws={"size": 8},
        linewidths=0.5 if few else 0,
        xticklabels=False,
        yticklabels=False,
        cbar_kws={"label": "share of the true class", "shrink": 0.8},
    )
    # Set through seaborn, a hundred labels take ten seconds: it renders each to look for overlaps.
    names, families = _names(classes)
    style: dict[str, Any] = {"fontsize": 9 if few else 7, "family": families}
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, **style)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0, **style)
    axes.set(xlabel="predicted class", ylabel="true class", title="Normalized confusion matrix")
    return figure


def _plot_large_confusion(shares: NDArray[np.float64], classes: int) -> Figure:
    figure = Figure(figsize=(_LARGEST, _LARGEST), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    shades = ScalarMappable(cmap="Blues")
    # As colors of 8 bits: drawn from shares, it would take 400 MB.
    colors = shades.cmap(shares, bytes=True)
    axes.imshow(colors, interpolation="nearest", extent=(0, classes, classes, 0))
    figure.colorbar(shades, ax=axes, label="share of the true class", shrink=0.8)
    group = -(-classes // len(shares))
    title = "Normalized confusion matrix" + (f" of groups of {group} neighboring classes" if group > 1 else "")
    axes.set(xlabel="number of the predicted class", ylabel="number of the true class", title=title)
    return figure


def plot_curves(epochs: Sequence[int], losses: Curves, accuracies: Curves, loss_name: str = "cross-entropy") -> Figure:
    """Loss and accuracy over the epochs.

    Args:
        epochs: their numbers, counted from 1.
        losses: of each curve by its name; one value for each epoch.
        accuracies: the same, between 0 and 1.
        loss_name: what the losses are.
    """
    import seaborn

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=_DPI)
    loss, accuracy = _axes(figure, ncols=2)
    colors = seaborn.color_palette("colorblind")
    for ax, name, curves in ((loss, loss_name, losses), (accuracy, "accuracy", accuracies)):
        for color, (label, values) in zip(colors, curves.items(), strict=False):
            ax.plot(epochs, values, marker="o", markersize=4, color=color, label=label)
        ax.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(epochs) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    highest = max(max(values) for values in losses.values())
    loss.set(title="Loss (training images are augmented)", ylim=(0, 1.05 * highest))
    accuracy.set(title="Accuracy", ylim=(0, 1.02))
    return figure


def plot_class_counts(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Number of images of each class, one panel per split."""
    named = len(classes) <= MOST_NAMED
    height = max(2.5, 0.2 * len(classes) + 1.2) if named else _LARGEST * 0.7
    figure = Figure(figsize=(3.6 * len(counts) + 1.5, height), layout="constrained", dpi=_DPI)
    axes: list[Axes] = list(np.ravel(_axes(figure, ncols=len(counts), sharey=True)))
    for ax, color, (split, of_class) in zip(axes, _COLORS, counts.items(), strict=False):
        if named:
            ax.barh(np.arange(len(classes)), of_class, color=color)
        else:
            ax.stairs(of_class, np.arange(len(classes) + 1) - 0.5, orientation="horizontal", fill=True, color=color)
        ax.set(title=f"{split}: {sum(of_class):,} images", xlabel="images", xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.margins(y=0.01)
    if named:
        names, families = _names(classes)
        size = 9 if len(classes) <= _MANY_CLASSES else 7
        axes[0].set_yticks(np.arange(len(classes)), names, fontsize=size, family=families)
    else:
        axes[0].set_ylabel("number of the class")
    axes[0].invert_yaxis()
    return figure


def plot_lr_range(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], marks: Mapping[str, float]
) -> Figure:
    """Loss over the learning rate, with some rates marked.

    Args:
        rates: rising.
        losses: one for each rate; those that are not finite are left out.
        smoothed: the same, smoothed; may end earlier.
        marks: rates by their labels; the first is drawn as a wide solid line.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=_DPI)
    axes: Axes = _axes(figure)
    axes.plot(rates, losses, ".", markersize=4, color="#999999", label="loss of each batch")
    axes.plot(rates[: len(smoothed)], smoothed, color=_COLORS[0], linewidth=2, label="smoothed")
    for number, (label, rate) in enumerate(marks.items()):
        style: Any = "--" if number else "-"
        color = _LANE_COLORS[number + 1]
        width = 1.2 if number else 3.6  # so that it shows beside the mark that it comes from
        axes.axvline(rate, color=color, linestyle=style, linewidth=width, label=label)
    # A loss that has exploded would press all others into a line.
    lowest = int(np.argmin(smoothed))
    bottom, top = smoothed[lowest], max(smoothed[: lowest + 1])
    span = max(top - bottom, 1e-6)
    axes.set(xscale="log", xlabel="learning rate of the head", ylabel="training loss", title="Range test")
    axes.set_ylim(max(bottom - 0.6 * span, 0), top + 0.6 * span)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower left")
    return figure


# Of the same palette, for the lanes of a timeline from top to bottom.
_LANE_COLORS = ("#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#009e73", "#56b4e9", "#999999")


def plot_timeline(
    lanes: Mapping[str, Sequence[tuple[float, float]]],
    memory: Sequence[tuple[float, float]],
    starts: Sequence[float],
    seconds: float,
) -> Figure:
    """Steps over time: a lane for each thing that is busy, and the memory in use below.

    Args:
        lanes: name of a lane -> begin and end of its bars in seconds, at most seven lanes; empty ones are left out.
        memory: points in time in seconds, and the bytes in use then.
        starts: when each step begins, in seconds.
        seconds: end of the last step.
    """
    colors = dict(zip(lanes, _LANE_COLORS, strict=False))
    busy = [lane for lane in lanes if lanes[lane]]
    heights = (0.45 * len(busy), 1.5)
    figure = Figure(figsize=(12, 1.2 + sum(heights)), layout="constrained", dpi=_DPI)
    above, below = _axes(figure, nrows=2, sharex=True, height_ratios=heights)
    for row, lane in enumerate(busy):
        bars = [(1e3 * start, 1e3 * (end - start)) for start, end in lanes[lane]]
        above.broken_barh(bars, (row - 0.38, 0.76), facecolors=colors[lane], edgecolor="white", linewidth=0.3)
    above.set_yticks(range(len(busy)), busy)
    above.invert_yaxis()
    above.set_xlim(0, 1e3 * seconds)
    for number, start in enumerate(starts):
        for axes in (above, below):
            axes.axvline(1e3 * start, color="black", linewidth=0.6, alpha=0.5)
        above.text(1e3 * start, -0.55, f" {number}", fontsize=8, alpha=0.7)
    above.set_title(f"{len(starts)} steps from shards, {1e3 * seconds:,.0f} ms")
    points = np.array(memory).reshape(-1, 2)
    below.plot(1e3 * points[:, 0], points[:, 1] / 1e9, color="#0072b2", drawstyle="steps-post", linewidth=0.8)
    below.set(xlabel="milliseconds", ylabel="GB in use", ylim=(0, None))
    for axes in (above, below):
        axes.grid(axis="x", alpha=0.3)
    return figure


def plot_sweep(name: str, values: Sequence[int | str], results: Sequence[Mapping[str, Sequence[float]]]) -> Figure:
    """Images per second of each stage of bench over the values of a setting, with the range of the repetitions.

    Args:
        name: of the setting.
        values: of the setting; numbers, or names of models.
        results: for each value, the repetitions of each stage, in images per second.
    """
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=_DPI)
    axes = _axes(figure)
    numeric = name != "model"
    positions = [float(value) for value in values] if numeric else list(range(len(values)))
    for number, stage in enumerate(results[0]):
        found = [of_value[stage] for of_value in results]
        style = ("-", "--", ":")[number % 3]
        (line,) = axes.plot(
            positions, list(map(statistics.median, found)), marker="o", markersize=4, label=stage, linestyle=style
        )
        lowest, highest = (list(map(pick, found)) for pick in (min, max))
        axes.fill_between(positions, lowest, highest, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel=_label(name), ylabel="images per second", yscale="log")
    if numeric and len(values) > 1:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    rates = [rate for of_value in results for of_stage in of_value.values() for rate in of_stage]
    # Over less than two decades there is room, and need, for figures between the powers of ten.
    axes.yaxis.set_minor_formatter("{x:,.0f}" if max(rates) < 100 * min(rates) else NullFormatter())
    axes.set_xticks(positions, [str(value) for value in values])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure
