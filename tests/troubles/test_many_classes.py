"""With 1,000 and 10,000 classes pictures and pages stay small, and so does memory.

Public reports: rasbt/mlxtend#152 (a confusion matrix of 1,000 classes takes 15 GB and ends in a segmentation fault),
nodefluxio/vortex#20 (it can't be read).
"""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from food101_fast.evaluate.__main__ import format_table
from food101_fast.evaluate.metrics import compute_metrics, confusion, confusion_cells, normalized
from food101_fast.evaluate.views import averaged
from food101_fast.plots import MOST_NAMED, plot_class_counts, plot_confusion, png
from food101_fast.report.findings import Evaluated, read_findings
from food101_fast.report.page import _render
from food101_fast.report.run_page import MOST_ROWS, run_page
from food101_fast.runs.evaluation import Predictions, read_evaluation
from food101_fast.runs.metrics import SplitMetrics


def scored(samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, classes), np.float32), rng.integers(0, classes, samples)


@pytest.mark.parametrize(
    "classes",
    [
        pytest.param(MOST_NAMED, marks=pytest.mark.slow),
        MOST_NAMED + 1,
        pytest.param(1000, marks=pytest.mark.slow),
        10_000,
    ],
)
def test_pictures_have_a_largest_size(classes: int) -> None:
    names = ["n" * 200 + str(number) for number in range(classes)]
    groups = min(classes, 1000)
    pictures = (
        png(plot_confusion(np.eye(groups), names), tight=True),
        png(plot_class_counts({"train": [8] * classes, "val": [1] * classes, "test": [2] * classes}, names)),
    )
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert max(image.size) < 4300


def test_a_group_of_classes_is_one_cell() -> None:
    logits, labels = scored(4000, 30)
    cells = confusion_cells(logits, labels)
    whole = confusion(cells, 30)
    grouped = confusion(cells, 30, 7)
    assert grouped.shape == (5, 5)
    for true in range(5):
        for predicted in range(5):
            block = whole[7 * true : 7 * true + 7, 7 * predicted : 7 * predicted + 7]
            assert grouped[true, predicted] == block.sum()
    assert np.allclose(normalized(grouped).sum(axis=1), 1)


def test_metrics_take_little_memory_beside_the_logits() -> None:
    """Of 4,000 samples and 2,000 classes, float64 copies would be 64 MB each."""
    logits, labels = scored(4000, 2000)
    names = tuple(map(str, range(2000)))
    tracemalloc.start()
    try:
        compute_metrics(logits, labels, names)
        assert tracemalloc.get_traced_memory()[1] < 80e6
        tracemalloc.reset_peak()
        averaged([logits, logits, logits])
        assert tracemalloc.get_traced_memory()[1] < 120e6  # of which 32 MB are the result
        tracemalloc.reset_peak()
        Predictions(np.arange(4000), labels, logits).mistakes()
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()


def test_blocks_of_rows_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = scored(500, 40)
    names = tuple(map(str, range(40)))
    whole = compute_metrics(logits, labels, names), averaged([logits, -logits])
    confidence = Predictions(labels, labels, logits).confidence
    monkeypatch.setattr("food101_fast.runs.evaluation._BLOCK", 130)
    assert compute_metrics(logits, labels, names) == whole[0]
    assert np.array_equal(averaged([logits, -logits]), whole[1])
    assert np.array_equal(Predictions(labels, labels, logits).confidence, confidence)


def test_the_table_of_the_terminal_lists_the_worst_of_many() -> None:
    logits, labels = scored(2000, 400)
    names = tuple(f"class {number} " + "日" * 100 for number in range(400))
    scores = compute_metrics(logits, labels, names)
    table = format_table(SplitMetrics(split="test", tta="none", weights="", predictions="", **vars(scores)))
    assert "the 50 classes with the lowest F1 of 400; all are in the metrics file" in table
    assert len(table.splitlines()) < 70
    assert max(map(len, table.splitlines())) < 130


def test_a_page_of_10_000_classes_lists_the_worst_and_stays_small(tiny_run: Path) -> None:
    found = read_findings(tiny_run, "test")
    classes = tuple(f"class_{number}" for number in range(10_000))
    logits, labels = np.zeros((300, 10_000), np.float32), np.arange(300)
    logits[np.arange(300), (labels + labels % 2) % 10_000] = 5
    metrics = read_evaluation(tiny_run, "test")
    assert metrics is not None
    scores = compute_metrics(logits, labels, classes)
    evaluated = Evaluated(
        metrics=replace(metrics, **vars(scores)), predictions=Predictions(labels, labels, logits), ensemble=None
    )
    counts = {split: tuple(range(10_000)) for split in ("train", "val", "test")}
    run = replace(found.run, classes=classes, class_counts=counts)
    page = run_page(replace(found, run=run, evaluated=evaluated, shards=None))
    assert page.evaluation is not None
    assert len(page.evaluation.classes) == len(page.balance.classes) == MOST_ROWS
    wrong = [row for row in page.evaluation.classes if row.confused_with]
    assert [(row.name, row.confused_with) for row in wrong[:2]] == [("class_1", "class_2"), ("class_3", "class_4")]
    assert len(wrong) == 150
    html = _render("report.html.jinja", page)
    assert len(html) < 2e6
    assert "The 1,000 classes with the lowest F1 of 10,000" in html
    assert "10,000 classes; the 1,000 smallest" in html
    assert orjson.dumps(page.balance.smallest.count) == b"0"
