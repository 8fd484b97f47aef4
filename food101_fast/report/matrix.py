"""A confusion matrix as SVG: a picture with one pixel for each cell, and labels that stay legible with 101 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from food101_fast.evaluate.metrics import ConfusionCells, confusion, normalized
from food101_fast.fonts import columns, short
from food101_fast.report.pictures import data_url

MOST_CLASSES = 300
"""A larger matrix is not drawn: labels and cells would be too small."""

_FEW_CLASSES = 20  # up to this many, cells are large enough for numbers
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito, as elsewhere
_DARKEST = 0.8  # so that numbers on it stay legible


@dataclass(frozen=True, kw_only=True)
class Label:
    """A class beside its row and above its column."""

    name: str
    center: float
    """Of its row or column, from the matrix's corner."""


@dataclass(frozen=True, kw_only=True)
class CellText:
    """A number on a cell."""

    text: str
    x: float
    """Center of the cell, from the matrix's left end."""
    y: float
    """The same, from its upper end."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What the template draws; lengths are in SVG units."""

    cell: int
    """Height and width of a cell."""
    font: int
    margin: int
    """Space for the labels, left and above."""
    side: int
    """Height and width of all cells together."""
    image: str
    """A pixel for each cell, as a `data:` URL."""
    labels: tuple[Label, ...]
    numbers: tuple[CellText, ...]
    """Shares in percent, if there are few classes."""
    cells: tuple[tuple[int, int, int], ...]
    """(true class, predicted class, count) of all that are not 0."""
    totals: tuple[int, ...]
    """Samples of each true class."""
    names: tuple[str, ...]
    """Of the classes, in full; labels are cut."""


def matrix(cells: ConfusionCells, classes: Sequence[str]) -> Matrix | None:
    """A confusion matrix to draw; None if there are too many classes.

    Args:
        cells: how often which class was taken for which one.
        classes: their names.
    """
    many = len(classes)
    if many > MOST_CLASSES:
        return None
    counts = confusion(cells, many)
    shares = normalized(counts)
    cell = 38 if many <= _FEW_CLASSES else 10
    font = 12 if many <= _FEW_CLASSES else 9
    names = tuple(name.replace("_", " ") for name in classes)
    shown = tuple(map(short, names))
    margin = round(max(map(columns, shown)) * font * 0.56) + 14
    pixels = np.zeros((many, many, 4), np.uint8)
    pixels[..., :3] = _WRONG
    pixels[np.arange(many), np.arange(many), :3] = _RIGHT
    # The square root, so that a mistake in one of a hundred samples is visible next to the diagonal.
    pixels[..., 3] = np.round(255 * _DARKEST * np.sqrt(shares))
    present = [(int(true), int(predicted)) for true, predicted in np.argwhere(counts)]
    numbers = (
        CellText(text=f"{100 * shares[true, predicted]:.0f}", x=(predicted + 0.5) * cell, y=(true + 0.5) * cell)
        for true, predicted in present
        if many <= _FEW_CLASSES
    )
    return Matrix(
        cell=cell,
        font=font,
        margin=margin,
        side=many * cell,
        image=data_url(Image.fromarray(pixels), "PNG"),
        labels=tuple(Label(name=name, center=(index + 0.5) * cell) for index, name in enumerate(shown)),
        numbers=tuple(numbers),
        cells=tuple((true, predicted, int(counts[true, predicted])) for true, predicted in present),
        totals=tuple(counts.sum(axis=1).tolist()),
        names=names,
    )
