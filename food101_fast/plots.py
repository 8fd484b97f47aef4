"""Plots of runs and of data sets, drawn without pyplot, so that nothing depends on a screen or a global state."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

_DPI = 120
_MANY_CLASSES = 20  # past this, labels get smaller, and numbers in the cells of a matrix can't be read
# Of the palette for all kinds of color vision by Okabe and Ito (https://jfly.uni-koeln.de/color/).
_COLORS = ("#0072b2", "#e69f00", "#009e73")


def png(figure: Figure, *, tight: bool = False) -> bytes:
    """A figure as a PNG file; `tight` cuts the empty border off."""
    stream = BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight" if tight else None, pad_inches=0.15)
    return stream.getvalue()


def _label(name: str) -> str:
    return name.replace("_", " ")


def _axes(figure: Figure, **grid: Any) -> Any:
    axes = figure.subplots(**grid)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def plot_confusion(shares: NDArray[np.float64], classes: Sequence[str]) -> Figure:
    """Heat map of a confusion matrix (classes, classes) whose rows add up to 1."""
    import seaborn  # here and below, since prepare draws without it

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
    # Given to seaborn, a hundred labels take ten seconds: it looks for overlaps with a renderer for each.
    names = [_label(name) for name in classes]
    size = 9 if few else 7
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=size)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0, fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class", title="Normalised confusion matrix")
    return figure


def plot_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy of training and validation over the epochs, from the lines of `metrics.jsonl`."""
    import seaborn

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=_DPI)
    loss, accuracy = _axes(figure, ncols=2)
    epochs = [row["epoch"] for row in metrics]
    colors = seaborn.color_palette("colorblind")
    for ax, name, series in (
        (loss, "cross-entropy", (("train_loss", "training"), ("val_loss", "validation"))),
        (
            accuracy,
            "accuracy",
            (
                ("train_top1", "training top-1"),
                ("val_top1", "validation top-1"),
                ("val_top5", "validation top-5"),
            ),
        ),
    ):
        for color, (key, label) in zip(colors, series, strict=False):
            ax.plot(epochs, [row[key] for row in metrics], marker="o", markersize=4, color=color, label=label)
        ax.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(epochs) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    highest = max(max(row["train_loss"], row["val_loss"]) for row in metrics)
    loss.set(title="Loss (training images are augmented)", ylim=(0, 1.05 * highest))
    accuracy.set(title="Accuracy", ylim=(0, 1.02))
    return figure


def plot_class_counts(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Number of images of each class, one panel per split."""
    figure = Figure(
        figsize=(3.6 * len(counts) + 1.5, max(2.5, 0.2 * len(classes) + 1.2)), layout="constrained", dpi=_DPI
    )
    axes: list[Axes] = list(np.ravel(_axes(figure, ncols=len(counts), sharey=True)))
    for ax, color, (split, of_class) in zip(axes, _COLORS, counts.items(), strict=False):
        ax.barh([_label(name) for name in classes], of_class, color=color)
        ax.set(title=f"{split}: {sum(of_class):,} images", xlabel="images")
        ax.tick_params(axis="y", labelsize=9 if len(classes) <= _MANY_CLASSES else 7)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.margins(y=0.01)
    axes[0].invert_yaxis()
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
