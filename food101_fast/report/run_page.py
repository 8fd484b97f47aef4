"""The page of one run: what `report.html.jinja` draws, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from markupsafe import Markup

from food101_fast.report.charts import line_chart, reliability_chart
from food101_fast.report.comparable import Comparable, comparable
from food101_fast.report.findings import Evaluated, Findings
from food101_fast.report.matrix import Matrix, matrix
from food101_fast.report.pictures import thumbnail
from food101_fast.report.sizes import ClassSizes, class_sizes
from food101_fast.runs.metrics import ClassMetrics, ConfusedPair, SplitMetrics, tells_top5
from food101_fast.runs.results import EpochRow, Totals, best_epoch, totals
from food101_fast.runs.run import Run

_Row = TypeVar("_Row")

_PAIRS = 10
_PICTURES_PER_PAIR = 4
_MISTAKES = 24
_FEW_CLASSES = 20  # up to this many the list of classes is shown unfolded
MOST_NAMED = 10
"""Classes that a sentence names at most."""
MOST_ROWS = 1000
"""Classes that are listed at most, so that a browser shows the page at once."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Images of a class in one split."""

    count: int
    width: float
    """In percent of the largest class."""


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """Images of a class."""

    name: str
    count: int
    """In all splits."""
    bars: tuple[Bar, ...]
    """One for each split."""


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """Images of a split."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Section "Images of each class"."""

    splits: tuple[SplitSize, ...]
    classes: tuple[ClassSize, ...]
    """In their order; with more than `MOST_ROWS`, the smallest ones."""
    smallest: ClassSize
    largest: ClassSize
    unfolded: bool
    """Whether the list of classes is short enough to be shown at once."""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A row of the section "Classes"."""

    name: str
    metrics: ClassMetrics
    confused_with: str | None
    """The class that it was most often taken for; None without mistakes."""
    confused: int
    """How often."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A wrongly predicted sample."""

    sample: int
    """Its id within the split."""
    key: str | None
    """Its key in the shards, such as `apple_pie/1005649`; None without shards."""
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""
    true_probability: float
    """Of the true class."""
    picture: str | None
    """As a `data:` URL; None without shards."""

    @property
    def where(self) -> str:
        """Its id, and its key if it is known."""
        return f"sample {self.sample}" + ("" if self.key is None else f" ({self.key})")


@dataclass(frozen=True, kw_only=True)
class PairExamples:
    """A pair of the section "Most frequent mistakes"."""

    pair: ConfusedPair
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationSections:
    """Everything that needs an evaluation: confusion matrix, classes, mistakes and calibration."""

    matrix: Matrix | None
    """None with too many classes to draw."""
    classes: tuple[ClassRow, ...]
    """In their order; with more than `MOST_ROWS`, those with the lowest F1."""
    pairs: tuple[PairExamples, ...]
    """Section "Most frequent mistakes"."""
    mistakes: tuple[Example, ...]
    """Section "Most confident mistakes"."""
    sizes: ClassSizes | None
    """Section "Accuracy over class size"; None where classes have about the same number of training images."""
    reliability: Markup
    """Chart of the section "Calibration"."""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """All that the template of a run draws; its fields are the names in the template."""

    found: Findings
    run: Run
    metrics: SplitMetrics | None
    """None if the split was not evaluated."""
    best: EpochRow
    totals: Totals
    curves: tuple[Markup, ...]
    """Charts of the section "Training"."""
    comparable: Comparable
    balance: Balance
    evaluation: EvaluationSections | None
    """None if the split was not evaluated."""
    tells_top5: bool
    """Whether top-5 says something, with more than five classes."""
    most_rows: int = MOST_ROWS
    most_named: int = MOST_NAMED
    """Classes that a sentence names at most."""


def run_page(found: Findings) -> RunPage:
    """The page of a run."""
    evaluated = found.evaluated
    return RunPage(
        found=found,
        run=found.run,
        metrics=None if evaluated is None else evaluated.metrics,
        best=best_epoch(found.epochs),
        totals=totals(found.epochs),
        curves=_curves(found.epochs, tells_top5(len(found.run.classes)), found.run.recipe.loss_name),
        comparable=comparable(found.run),
        balance=_balance(found.run),
        evaluation=None if evaluated is None else _evaluation(found, evaluated),
        tells_top5=tells_top5(len(found.run.classes)),
    )


def waiting_axis_top(rows: Sequence[EpochRow]) -> float:
    """Upper end of the axis of waiting: at least 10 %, so that a very small share does not look large."""
    return max(0.1, 1.1 * max(row.timing.wait_share for row in rows))


def _curves(rows: Sequence[EpochRow], with_top5: bool, loss_name: str) -> tuple[Markup, ...]:
    epochs, timings = [row.epoch for row in rows], [row.timing for row in rows]
    losses = {"training": [row.train_loss for row in rows], "validation": [row.val_loss for row in rows]}
    accuracies = {
        "training": [row.train_top1 for row in rows],
        "validation": [row.val_top1 for row in rows],
    }
    if with_top5:
        accuracies["validation top-5"] = [row.val_top5 for row in rows]
    without_waiting = [timing.compute_images_per_second for timing in timings]
    rates = {"measured": [timing.images_per_second for timing in timings], "without waiting": without_waiting}
    waiting = {"waiting": [timing.wait_share for timing in timings]}
    return (
        line_chart(epochs, losses, loss_name),
        line_chart(epochs, accuracies, "top-1 accuracy", share=True, top=1.02),
        line_chart(epochs, rates, "images per second", top=1.1 * max(without_waiting)),
        line_chart(epochs, waiting, "time waiting for data", share=True, top=waiting_axis_top(rows)),
    )


def _balance(run: Run) -> Balance:
    counts = np.array(list(run.class_counts.values()))
    of_classes = counts.sum(axis=0)
    largest = max(int(of_classes.max()), 1)
    classes = tuple(
        ClassSize(
            name=name,
            count=int(of_class.sum()),
            bars=tuple(Bar(count=int(count), width=100 * int(count) / largest) for count in of_class),
        )
        for name, of_class in zip(run.classes, counts.T, strict=True)
    )
    return Balance(
        splits=tuple(SplitSize(name=name, count=sum(of_split)) for name, of_split in run.class_counts.items()),
        classes=fewest(classes, [size.count for size in classes]),
        smallest=classes[int(of_classes.argmin())],
        largest=classes[int(of_classes.argmax())],
        unfolded=len(classes) <= _FEW_CLASSES,
    )


def fewest(rows: Sequence[_Row], values: Sequence[float]) -> tuple[_Row, ...]:
    """The rows with the lowest values, in their order: all up to `MOST_ROWS`."""
    lowest = np.argsort(np.array(values), kind="stable")[:MOST_ROWS]
    return tuple(rows[index] for index in sorted(lowest.tolist()))


def _evaluation(found: Findings, evaluated: Evaluated) -> EvaluationSections:
    wrong = evaluated.predictions.mistakes()[:_MISTAKES]
    return EvaluationSections(
        matrix=matrix(evaluated.cells, found.run.classes),
        classes=_classes(evaluated, found.run.classes),
        pairs=_pairs(found, evaluated),
        mistakes=tuple(_example(found, evaluated, index) for index in wrong),
        sizes=class_sizes(found.run, evaluated.metrics),
        reliability=reliability_chart(evaluated.metrics.calibration),
    )


def _classes(evaluated: Evaluated, names: Sequence[str]) -> tuple[ClassRow, ...]:
    most: dict[int, tuple[int, int | None]] = {}  # (images, the class that they were taken for), of each true class
    cells = evaluated.cells
    for true, predicted, count in zip(cells.true.tolist(), cells.predicted.tolist(), cells.count.tolist(), strict=True):
        if true != predicted and count > most.get(true, (0, 0))[0]:
            most[true] = count, predicted
    rows = []
    for label, (name, metrics) in enumerate(evaluated.metrics.per_class.items()):
        confused, other = most.get(label, (0, None))
        with_other = None if other is None else names[other]
        rows.append(ClassRow(name=name, metrics=metrics, confused_with=with_other, confused=confused))
    # A class without images is of least interest.
    return fewest(rows, [2.0 if row.metrics.f1 is None else row.metrics.f1 for row in rows])


def _pairs(found: Findings, evaluated: Evaluated) -> tuple[PairExamples, ...]:
    label = {name: label for label, name in enumerate(found.run.classes)}
    pairs = []
    for pair in evaluated.metrics.confused[:_PAIRS]:
        indices = evaluated.predictions.mistakes(label[pair.true], label[pair.predicted])[:_PICTURES_PER_PAIR]
        pairs.append(PairExamples(pair=pair, examples=tuple(_example(found, evaluated, index) for index in indices)))
    return tuple(pairs)


def _example(found: Findings, evaluated: Evaluated, index: int) -> Example:
    """A sample by its index in the predictions."""
    predictions, names = evaluated.predictions, found.run.classes
    true, predicted = int(predictions.labels[index]), int(predictions.predicted[index])
    sample = int(predictions.ids[index])
    probabilities = predictions.probabilities(index)
    split = None if found.shards is None else found.shards.split(found.split)
    return Example(
        sample=sample,
        key=None if split is None else split.key(sample),
        true=names[true],
        predicted=names[predicted],
        probability=float(probabilities[predicted]),
        true_probability=float(probabilities[true]),
        picture=None if split is None else thumbnail(split[sample]),
    )
