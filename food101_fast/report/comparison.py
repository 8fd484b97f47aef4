"""The page that compares runs: what `comparison.html.jinja` draws, section by section."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup
from scipy.stats import binomtest

from food101_fast.report.charts import line_chart
from food101_fast.report.findings import Findings
from food101_fast.report.run_page import MOST_ROWS, fewest, waiting_axis_top
from food101_fast.runs.metrics import SplitMetrics, tells_top5
from food101_fast.runs.results import EpochRow, best_epoch, totals


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of one run."""

    text: str
    best: bool
    """Whether it is the best of all runs."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row of the section "Results"."""

    title: str
    cells: tuple[Cell, ...]
    """One for each run."""


@dataclass(frozen=True, kw_only=True)
class McNemarTest:
    """Whether a run and the first one differ in which samples they get right."""

    names: tuple[str, str]
    """The first run and the other one."""
    only: tuple[int, int]
    """Samples that only the first one, and only the other one, gets right."""
    p: float
    """The test's p-value, two-sided."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """A field of the recipe that is not the same in all runs."""

    field: str
    values: tuple[object, ...]
    """One for each run."""


@dataclass(frozen=True, kw_only=True)
class ClassComparison:
    """A row of the section "F1 of each class"."""

    name: str
    f1: tuple[float | None, ...]
    """One for each run; None where the class has no samples."""
    difference: float | None
    """The last run's minus the first one's."""


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """All that the template of a comparison draws; its fields are the names in the template."""

    found: tuple[Findings, ...]
    names: tuple[str, ...]
    """Of the runs; all differ."""
    split: str
    same_data: bool
    """Whether all runs were trained on the same shards."""
    rows: tuple[ResultRow, ...]
    tests: tuple[McNemarTest, ...]
    """Of the first run with each other that it can be compared with."""
    curves: tuple[Markup, ...]
    """Charts of the section "Training"."""
    differences: tuple[RecipeRow, ...]
    classes: tuple[ClassComparison, ...] | None
    """In their order; with more than `MOST_ROWS`, those that differ most. None if a run was not evaluated or the
    classes differ."""
    most_rows: int = MOST_ROWS


@dataclass(frozen=True)
class _Compared:
    """A number that is compared."""

    title: str
    value: Callable[[Findings], float | None]
    form: str
    more_is_better: bool | None
    """None marks no run as the best: neither is better, or the number depends on other load on the machine."""


def _measured(value: Callable[[SplitMetrics], float]) -> Callable[[Findings], float | None]:
    return lambda found: None if found.evaluated is None else value(found.evaluated.metrics)


_COMPARED = (
    _Compared("top-1", _measured(lambda metrics: metrics.top1), "{:.2%}", True),
    _Compared("top-5", _measured(lambda metrics: metrics.top5), "{:.2%}", True),
    _Compared("balanced accuracy", _measured(lambda metrics: metrics.balanced_accuracy), "{:.4f}", True),
    _Compared("macro F1", _measured(lambda metrics: metrics.macro_f1), "{:.4f}", True),
    _Compared("cross-entropy", _measured(lambda metrics: metrics.loss), "{:.4f}", False),
    _Compared("expected calibration error", _measured(lambda metrics: metrics.calibration.ece), "{:.4f}", False),
    _Compared("best validation top-1", lambda found: best_epoch(found.epochs).val_top1, "{:.2%}", True),
    _Compared("best epoch", lambda found: best_epoch(found.epochs).epoch, "{:,}", None),
    _Compared("epochs", lambda found: len(found.epochs), "{:,}", None),
    _Compared("images per second", lambda found: totals(found.epochs).images_per_second, "{:,.0f}", None),
    _Compared("waiting for data", lambda found: totals(found.epochs).wait_share, "{:.1%}", None),
    _Compared("seconds of training", lambda found: totals(found.epochs).seconds, "{:,.1f}", None),
)


def comparison_page(found: Sequence[Findings]) -> ComparisonPage:
    """The page of several runs.

    Args:
        found: two runs or more, read for the same split.
    """
    names = _distinct_names([one.folder for one in found])
    tests = [_mcnemar(names[0], found[0], name, one) for name, one in zip(names[1:], found[1:], strict=True)]
    any_top5 = any(tells_top5(len(one.run.classes)) for one in found)
    return ComparisonPage(
        found=tuple(found),
        names=names,
        split=found[0].split,
        same_data=len({one.run.data for one in found}) == 1,
        rows=(
            _views(found),
            *(_row(compared, found) for compared in _COMPARED if compared.title != "top-5" or any_top5),
        ),
        tests=tuple(test for test in tests if test is not None),
        curves=_curves(names, found),
        differences=_differences(found),
        classes=_classes(found),
    )


def _distinct_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names, with those of parent folders where they would be equal."""
    paths = [folder.resolve() for folder in folders]
    depth = next(depth for depth in itertools.count(1) if len({path.parts[-depth:] for path in paths}) == len(paths))
    return tuple("/".join(path.parts[-depth:]) for path in paths)


def _views(found: Sequence[Findings]) -> ResultRow:
    views = ["-" if one.evaluated is None else one.evaluated.metrics.tta for one in found]
    return ResultRow(title="test-time augmentation", cells=tuple(Cell(text=view, best=False) for view in views))


def _row(compared: _Compared, found: Sequence[Findings]) -> ResultRow:
    values = [compared.value(one) for one in found]
    known = {value for value in values if value is not None}
    best = None
    if compared.more_is_better is not None and len(known) > 1:
        best = max(known) if compared.more_is_better else min(known)
    cells = (
        Cell(text="-", best=False) if value is None else Cell(text=compared.form.format(value), best=value == best)
        for value in values
    )
    return ResultRow(title=compared.title, cells=tuple(cells))


def _mcnemar(first_name: str, first: Findings, name: str, other: Findings) -> McNemarTest | None:
    """The test for two runs; None if one was not evaluated or their shards differ.

    Source: McNemar, Psychometrika 12 (1947), in its exact form: if the runs do not differ, each sample that only one of
    them gets right is right in either with probability one half.
    """
    if first.evaluated is None or other.evaluated is None or first.run.data != other.run.data:
        return None
    one, two = first.evaluated.predictions, other.evaluated.predictions
    right, right_too = one.predicted == one.labels, two.predicted == two.labels
    only_first, only_other = int((right & ~right_too).sum()), int((~right & right_too).sum())
    discordant = only_first + only_other
    return McNemarTest(
        names=(first_name, name),
        only=(only_first, only_other),
        p=float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0,
        samples=len(right),
    )


def _curves(names: Sequence[str], found: Sequence[Findings]) -> tuple[Markup, ...]:
    longest = max((one.epochs for one in found), key=len)
    epochs = [row.epoch for row in longest]

    def series(value: Callable[[EpochRow], float]) -> dict[str, list[float]]:
        return {name: [value(row) for row in one.epochs] for name, one in zip(names, found, strict=True)}

    rates, waiting = series(lambda row: row.timing.images_per_second), series(lambda row: row.timing.wait_share)
    fastest = max(rate for of_run in rates.values() for rate in of_run)
    waiting_top = max(waiting_axis_top(one.epochs) for one in found)
    return (
        line_chart(epochs, series(lambda row: row.val_loss), "validation cross-entropy"),
        line_chart(epochs, series(lambda row: row.val_top1), "validation top-1", share=True, top=1.02),
        line_chart(epochs, rates, "images per second", top=1.1 * fastest),
        line_chart(epochs, waiting, "time waiting for data", share=True, top=waiting_top),
    )


def _differences(found: Sequence[Findings]) -> tuple[RecipeRow, ...]:
    recipes = [asdict(one.run.recipe) for one in found]
    differing = [field for field in recipes[0] if len({str(recipe[field]) for recipe in recipes}) > 1]
    return tuple(RecipeRow(field=field, values=tuple(recipe[field] for recipe in recipes)) for field in differing)


def _classes(found: Sequence[Findings]) -> tuple[ClassComparison, ...] | None:
    tables = [one.evaluated.metrics.per_class for one in found if one.evaluated is not None]
    if len(tables) < len(found) or len({one.run.classes for one in found}) > 1:
        return None
    rows = []
    for name in found[0].run.classes:
        f1 = tuple(table[name].f1 for table in tables)
        difference = None if f1[0] is None or f1[-1] is None else f1[-1] - f1[0]
        rows.append(ClassComparison(name=name, f1=f1, difference=difference))
    return fewest(rows, [-abs(row.difference or 0.0) for row in rows])
