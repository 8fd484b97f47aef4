"""How well classes are recognized by their number of training images: where that differs, a chart and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from food101_fast.report.charts import size_chart
from food101_fast.runs.metrics import SplitMetrics
from food101_fast.runs.run import Run

UNEQUAL = 1.5
"""Below this ratio of the largest to the smallest class nothing is shown."""

_GROUPS = ("fewest", "medium", "most")
_MOST_COMPARED = 20  # classes at each end that the sentence compares
_CLEAR = 0.1  # difference of the recall from which on the sentence gives advice


@dataclass(frozen=True, kw_only=True)
class SizeGroup:
    """Classes of similar size."""

    name: str
    """`fewest`, `medium` or `most` training images: a third of the classes each."""
    classes: int
    smallest: int
    """Training images of its smallest class."""
    largest: int
    recall: float
    """Mean over its classes."""


@dataclass(frozen=True, kw_only=True)
class ClassSizes:
    """Section "Accuracy over class size"."""

    chart: Markup
    groups: tuple[SizeGroup, ...]
    finding: str
    """What the chart shows, in words."""


def class_sizes(run: Run, metrics: SplitMetrics) -> ClassSizes | None:
    """The section; None where classes have about the same number of training images.

    Args:
        run: what was trained, on what.
        metrics: of the split that the report shows.
    """
    counts = np.array(run.class_counts.get("train", ()))
    recalls = [entry.recall for entry in metrics.per_class.values()]
    known = [label for label, count in enumerate(counts.tolist()) if count and recalls[label] is not None]
    if len(known) < 2 or counts[known].max() <= UNEQUAL * counts[known].min():
        return None
    by_size = np.array(sorted(known, key=lambda label: counts[label]))
    sizes, recall = counts[by_size], np.array([recalls[label] for label in by_size], np.float64)
    cut = np.array_split(np.arange(by_size.size), min(len(_GROUPS), by_size.size))
    names = _GROUPS if len(cut) == len(_GROUPS) else (_GROUPS[0], _GROUPS[-1])
    groups = tuple(_group(name, sizes[rows], recall[rows]) for name, rows in zip(names, cut, strict=True))
    means = [(float(np.exp(np.log(sizes[rows]).mean())), group.recall) for rows, group in zip(cut, groups, strict=True)]
    return ClassSizes(
        chart=size_chart(sizes.tolist(), recall.tolist(), means),
        groups=groups,
        finding=_finding(sizes, recall, run.recipe.class_balance),
    )


def _group(name: str, sizes: np.ndarray, recall: np.ndarray) -> SizeGroup:
    return SizeGroup(
        name=name,
        classes=sizes.size,
        smallest=int(sizes[0]),
        largest=int(sizes[-1]),
        recall=float(recall.mean()),
    )


def _finding(sizes: np.ndarray, recall: np.ndarray, balance: str) -> str:
    """A sentence that compares the smallest classes with the largest ones; both arrays go by size."""
    compared = max(1, min(_MOST_COMPARED, sizes.size // 3))
    low, high = float(recall[:compared].mean()), float(recall[-compared:].mean())
    those = "class has" if compared == 1 else f"{compared} classes have"
    rare, frequent = _range(sizes[:compared]), _range(sizes[-compared:])
    sentence = (
        f"The smallest {those} a recall of {low:.2f} ({rare} training images), the largest {high:.2f} ({frequent})"
    )
    if high - low < _CLEAR:
        return f"{sentence}."
    if balance == "none":
        return f"{sentence}. Try --class-balance sampling, weights or logit-adjust, or add images of the small classes."
    return f"{sentence}, with --class-balance {balance}. More images of the small classes would help most."


def _range(sizes: Sequence[int] | np.ndarray) -> str:
    smallest, largest = int(sizes[0]), int(sizes[-1])
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
