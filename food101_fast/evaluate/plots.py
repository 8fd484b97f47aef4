"""Plots of a run as PNG files, drawn without pyplot so that nothing depends on a screen or a global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_DPI = 120
_MANY_CLASSES = 20  # past this, numbers in the cells of a matrix can't be read


def _label(name: str) -> str:
    return name.replace("_", " ")


def _axes(figure: Figure, **grid: Any) -> Any:
    axes = figure.subplots(**grid)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def plot_confusion(shares: NDArray[np.float64], classes: Sequence[str], path: Path) -> None:
    """Heat map of a confusion matrix (classes, classes) whose rows add up to 1."""
    few = len(classes) <= _MANY_CLASSES
    side = max(5.0, 0.62 * len(classes)) if few else 0.19 * len(classes) + 3
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
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
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", pad_inches=0.15)


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy of training and validation over the epochs, from the lines of `metrics.jsonl`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = _axes(figure, ncols=2)
    epochs = [row["epoch"] for row in metrics]
    colours = seaborn.color_palette("colorblind")
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
        for colour, (key, label) in zip(colours, series, strict=False):
            ax.plot(epochs, [row[key] for row in metrics], marker="o", markersize=4, color=colour, label=label)
        ax.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(epochs) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    highest = max(max(row["train_loss"], row["val_loss"]) for row in metrics)
    loss.set(title="Loss (training images are augmented)", ylim=(0, 1.05 * highest))
    accuracy.set(title="Accuracy", ylim=(0, 1.02))
    figure.savefig(path, dpi=_DPI)
