"""Temperature scaling: one number that logits are divided by, so that the cross-entropy on a split is lowest.

It changes how sure a model is, and not what it predicts.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

from food101_fast.evaluate.metrics import Labels, Logits, cross_entropy

LOWEST, HIGHEST = 0.05, 20.0
"""Limits of a temperature. Without them it would be 0 where each image of the split is predicted correctly."""


def fit_temperature(logits: Logits, labels: Labels) -> float | None:
    """The temperature with the lowest cross-entropy, from `LOWEST` to `HIGHEST`.

    The cross-entropy is convex in 1 / T, so it has one minimum in log T, too, which is searched in float64.

    Args:
        logits: (N, classes).
        labels: (N,).

    Returns:
        1.0 where no temperature is better, as with a single class. None where the cross-entropy is not finite.
    """
    if not labels.size or np.isnan(logits).any() or np.isposinf(logits).any():
        return None
    plain = cross_entropy(logits, labels)
    if not math.isfinite(plain):  # a true class has the logit -inf
        return None
    found = minimize_scalar(
        lambda log: cross_entropy(logits, labels, math.exp(log)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-5},
    )
    best = float(np.clip(math.exp(found.x), LOWEST, HIGHEST))
    return best if found.fun < plain else 1.0
