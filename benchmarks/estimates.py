"""Means over seeds and their standard errors, as the results have them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Estimate = dict[str, float | None]
"""`mean`, and its `standard_error`: None where there is one value only."""


def mean_and_error(values: Sequence[float]) -> Estimate:
    """Mean over the seeds, and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "standard_error": error}


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Difference of two means, and its standard error; the seeds of both are independent."""
    errors = [mean_and_error(of)["standard_error"] for of in (values, others)]
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) if len(known) == len(errors) else None
    return {"mean": statistics.mean(values) - statistics.mean(others), "standard_error": error}
