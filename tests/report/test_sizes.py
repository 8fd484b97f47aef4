"""The report shows accuracy over class size where classes differ in size, and only there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import orjson
import pytest

from food101_fast.evaluate.metrics import compute_metrics
from food101_fast.report import write_report
from food101_fast.report.sizes import ClassSizes, class_sizes
from food101_fast.runs.metrics import SplitMetrics
from food101_fast.runs.run import Run, read_run


def metrics_of(recalls: list[float]) -> SplitMetrics:
    """Of ten images for each class; the wrong ones were taken for the next class."""
    classes = len(recalls)
    labels = np.repeat(np.arange(classes), 10)
    wrong = np.tile(np.arange(10), classes) >= np.repeat(np.round(10 * np.array(recalls)), 10)
    logits = np.eye(classes, dtype=np.float32)[(labels + wrong) % classes]
    scores = compute_metrics(logits, labels, tuple(map(str, range(classes))))
    return SplitMetrics(**vars(scores), split="test", tta="none", weights="", predictions="")


@pytest.fixture
def run(tiny_run: Path) -> Run:
    return read_run(tiny_run)


def section(run: Run, counts: list[int], recalls: list[float], balance: str = "none") -> ClassSizes | None:
    recipe = dataclasses.replace(run.recipe, class_balance=balance)  # type: ignore[arg-type]
    changed = dataclasses.replace(
        run, classes=tuple(map(str, range(len(counts)))), class_counts={"train": tuple(counts)}, recipe=recipe
    )
    return class_sizes(changed, metrics_of(recalls))


@pytest.mark.parametrize("counts", [[100, 100, 100], [100, 150, 120], [100]])
def test_equal_classes_have_no_section(run: Run, counts: list[int]) -> None:
    assert section(run, counts, [0.5] * len(counts)) is None


def test_the_smallest_are_compared_with_the_largest(run: Run) -> None:
    counts, recalls = [400, 8, 150, 20, 60, 900], [0.9, 0.1, 0.7, 0.3, 0.5, 1.0]
    found = section(run, counts, recalls)
    assert found is not None
    assert [(group.name, group.smallest, group.largest, group.classes) for group in found.groups] == [
        ("fewest", 8, 20, 2), ("medium", 60, 150, 2), ("most", 400, 900, 2),
    ]  # fmt: skip
    assert [group.recall for group in found.groups] == pytest.approx([0.2, 0.6, 0.95])
    assert found.finding.startswith(
        "The smallest 2 classes have a recall of 0.20 (8 to 20 training images), the largest 0.95 (400 to 900). Try "
    )
    assert "var(--series-1)" in found.chart  # a color of the page, light or dark
    assert "var(--series-2)" in found.chart
    balanced = section(run, counts, recalls, "sampling")
    assert balanced is not None
    assert "with --class-balance sampling" in balanced.finding
    assert "Try" not in balanced.finding


def test_no_advice_where_small_classes_do_as_well(run: Run) -> None:
    found = section(run, [10, 20, 200], [0.8, 0.8, 0.8])
    assert found is not None
    assert found.finding.endswith("the largest 0.80 (200).")


def test_two_classes_and_a_class_without_training_images(run: Run) -> None:
    found = section(run, [10, 0, 200], [0.5, 0.5, 0.5])
    assert found is not None
    assert [group.name for group in found.groups] == ["fewest", "most"]


def test_the_page_has_it_where_classes_differ(moved_run: Path) -> None:
    """The three classes of the fixture have 24, 16 and 18 training images: 1.5 times, and so nothing."""
    text = write_report(moved_run).read_text()
    assert 'id="sizes"' not in text
    assert "balanced accuracy" in text
    description = moved_run / "recipe.json"
    run = read_run(moved_run)
    counts = {**run.class_counts, "train": (90, 16, 18)}
    document = orjson.loads(description.read_bytes()) | {"class_counts": counts}
    description.write_bytes(orjson.dumps(document))
    assert 'id="sizes"' in write_report(moved_run).read_text()
