"""Reports of small data sets: no number that says nothing, and none without what it is about.

Seen when new users followed the docs: top-5 of three classes is always 100 %, a mean over classes was over some of
them, a run was worse than one fixed answer and nothing said so, and a wrong picture could not be found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from food101_fast.evaluate.__main__ import format_table
from food101_fast.evaluate.metrics import compute_metrics
from food101_fast.report import comparison, findings, page, run_page
from food101_fast.report.findings import Evaluated, Findings, read_findings
from food101_fast.runs.evaluation import Predictions
from food101_fast.runs.metrics import SplitMetrics
from food101_fast.shards import ShardSet
from tests.conftest import stored_labels

Command = Callable[..., tuple[int, str, str]]


def shown(found: Findings) -> str:
    """The text of the page of a run."""
    return page._render("report.html.jinja", run_page.run_page(found))


def measured(classes: int, labels: list[int], predicted: list[int]) -> tuple[SplitMetrics, Predictions]:
    """What an evaluation of a model would give that is sure of its answers."""
    names = tuple(f"class {i}" for i in range(classes))
    logits = np.zeros((len(labels), classes), np.float32)
    logits[np.arange(len(labels)), predicted] = 3
    predictions = Predictions(np.arange(len(labels)), np.array(labels), logits)
    scores = compute_metrics(logits, predictions.labels, names)
    return SplitMetrics(**vars(scores), split="test", tta="none", weights="", predictions=""), predictions


def found_with(tiny_run: Path, classes: int, labels: list[int], predicted: list[int]) -> Findings:
    """The findings of a run, with another evaluation."""
    found = read_findings(tiny_run, "test")
    metrics, predictions = measured(classes, labels, predicted)
    run = replace(found.run, classes=tuple(metrics.per_class), class_counts={"test": (1,) * classes})
    evaluated = Evaluated(metrics=metrics, predictions=predictions, ensemble=None)
    return replace(found, run=run, evaluated=evaluated, shards=None, missing_pictures="none are made here")


@pytest.mark.parametrize(("classes", "told"), [(5, False), (6, True)])
def test_top5_is_shown_with_six_classes_and_more(tiny_run: Path, classes: int, told: bool) -> None:
    labels = list(range(classes))
    found = found_with(tiny_run, classes, labels, labels)
    assert ("top-5" in shown(found)) == told
    assert found.evaluated is not None
    assert ("top-5" in format_table(found.evaluated.metrics)) == told
    rows = comparison.comparison_page([found, replace(found, folder=tiny_run.parent)]).rows
    assert ("top-5" in [row.title for row in rows]) == told


def test_a_mean_over_some_classes_says_over_how_many(tiny_run: Path) -> None:
    some = found_with(tiny_run, 4, [0, 0, 2], [0, 0, 2])
    assert some.evaluated is not None
    assert "macro F1 1.0000 (mean over 2 of 4 classes)" in format_table(some.evaluated.metrics)
    text = shown(some)
    assert "mean over 2 of 4 classes" in text
    assert "The test split has no image of class 1, class 3, so" in text
    every = found_with(tiny_run, 2, [0, 1], [0, 1])
    assert every.evaluated is not None
    assert "mean over" not in format_table(every.evaluated.metrics)
    assert "mean over classes" in shown(every)
    assert "has no image of" not in shown(every)


def test_of_many_untested_classes_ten_are_named(tiny_run: Path) -> None:
    text = shown(found_with(tiny_run, 30, [0], [0]))
    assert "class 10 and 19 more classes, so" in text


@pytest.mark.parametrize(("predicted", "told"), [([1, 1, 1, 1], True), ([0, 0, 0, 0], False), ([0, 0, 0, 1], False)])
def test_a_run_below_one_fixed_answer_is_told(tiny_run: Path, predicted: list[int], told: bool) -> None:
    text = shown(found_with(tiny_run, 2, [0, 0, 0, 1], predicted))
    sentence = "A top-1 of 25.00&nbsp;% is below the 75.00&nbsp;% of always answering class 0, the most frequent class"
    assert (sentence in text) == told
    assert ("of always answering" in text) == told


@pytest.mark.parametrize(("predicted", "told"), [([1, 1, 1], True), ([0, 1, 1], False)])
def test_a_model_that_always_says_the_same_is_told(tiny_run: Path, predicted: list[int], told: bool) -> None:
    found = found_with(tiny_run, 3, [0, 1, 2], predicted)
    assert found.evaluated is not None
    sentence = "every image was taken for class 1: the model has learned no other class"
    for text in (shown(found), format_table(found.evaluated.metrics)):
        assert (sentence in text.replace("Every", "every")) == told


def test_the_splits_are_named_beside_the_number(tiny_run: Path) -> None:
    found = read_findings(tiny_run, "test")
    header = shown(found).partition("<nav>")[0]
    assert "images of the test split. Splits: stratified 0.8 / 0.1 / 0.1, seed 0.</p>" in header
    assert "Splits" not in shown(replace(found, run=replace(found.run, protocol=""))).partition("<nav>")[0]


def test_mistakes_have_keys(tiny_run: Path, tiny_path: Path) -> None:
    told = dict(re.findall(r'title="sample (\d+) \(([^)]+)\)', shown(findings.read_findings(tiny_run, "test"))))
    assert told
    split, labels = ShardSet.open(tiny_path).split("test"), stored_labels(tiny_path, "test")
    assert all(split.key(int(sample)) == key and key in labels for sample, key in told.items())
    assert [labels[split.key(sample)] for sample in range(len(split))] == split.labels.tolist()
    with pytest.raises(IndexError):
        split.key(len(split))
