"""A confusion matrix as SVG: a picture with a pixel for each cell, and labels that can be read for 101 classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from food101_fast.evaluate.metrics import normalised
from food101_fast.report.pictures import data_url

MOST_CLASSES = 300
"""A larger matrix is not drawn: its labels could not be read, nor its cells told apart."""

_FEW_CLASSES = 20  # up to which there is room for numbers
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito, as elsewhere
_DARKEST = 0.8  # so that numbers can be read on it


def matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any] | None:
    """What the page's template draws; None if there are too many classes.

    Args:
        counts: (true class, predicted class).
        classes: their names.

    Returns:
        Sizes in SVG units; `image`, a data URL; `rows`, label and place of each class; `numbers`, text and place of
        each cell if there are few; `cells`, [true, predicted, count] of those that are not empty.
    """
    many = len(classes)
    if many > MOST_CLASSES:
        return None
    shares = normalised(counts)
    cell = 38 if many <= _FEW_CLASSES else 10
    font = 12 if many <= _FEW_CLASSES else 9
    names = [name.replace("_", " ") for name in classes]
    margin = round(max(map(len, names)) * font * 0.56) + 14
    pixels = np.zeros((many, many, 4), np.uint8)
    pixels[..., :3] = _WRONG
    pixels[np.arange(many), np.arange(many), :3] = _RIGHT
    # The square root, so that a confusion of one in a hundred is seen beside what is right.
    pixels[..., 3] = np.round(255 * _DARKEST * np.sqrt(shares))
    present = [(int(true), int(predicted)) for true, predicted in np.argwhere(counts)]
    return {
        "cell": cell,
        "font": font,
        "margin": margin,
        "side": many * cell,
        "image": data_url(Image.fromarray(pixels), "PNG"),
        "rows": [(name, (place + 0.5) * cell) for place, name in enumerate(names)],
        "numbers": [
            (f"{100 * shares[true, predicted]:.0f}", (predicted + 0.5) * cell, (true + 0.5) * cell)
            for true, predicted in present
        ]
        if many <= _FEW_CLASSES
        else [],
        "cells": [[true, predicted, int(counts[true, predicted])] for true, predicted in present],
        "totals": counts.sum(axis=1).tolist(),
        "names": names,
    }
