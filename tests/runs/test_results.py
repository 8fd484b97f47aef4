"""What a run stores is read back as it was, and refused with one sentence where it is not what this version knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest

from food101_fast.errors import UserError
from food101_fast.runs import read_run
from food101_fast.runs.evaluation import read_evaluation, read_predictions, write_evaluation
from food101_fast.runs.metrics import Scores
from food101_fast.runs.results import read_metrics, totals
from food101_fast.runs.run import write_run


def test_what_is_read_and_written_again_has_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    rows = read_metrics(tiny_run)
    assert [row.epoch for row in rows] == [1, 2]
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    assert lines == (tiny_run / "metrics.jsonl").read_bytes()
    write_run(tmp_path, read_run(tiny_run))
    assert (tmp_path / "recipe.json").read_bytes() == (tiny_run / "recipe.json").read_bytes()
    metrics = read_evaluation(tiny_run, "test")
    assert metrics is not None
    scores = Scores(**{field.name: getattr(metrics, field.name) for field in dataclasses.fields(Scores)})
    predictions = read_predictions(tiny_run, "test")
    named = {"tta": "none", "weights": metrics.weights, "protocol": metrics.protocol}
    calibrated = metrics.calibrated
    assert write_evaluation(tmp_path, "test", scores, predictions, **named, calibrated=calibrated) == metrics
    for name in ("test_metrics.json", "predictions.npz"):
        assert (tmp_path / name).read_bytes() == (tiny_run / name).read_bytes()


def test_totals_are_sums_over_the_epochs(tiny_run: Path) -> None:
    rows = read_metrics(tiny_run)
    total = totals(rows)
    assert total.images == sum(row.timing.images for row in rows) == 2 * rows[0].timing.images
    assert total.seconds == sum(row.timing.seconds for row in rows)
    assert min(row.timing.wait_share for row in rows) <= total.wait_share <= max(row.timing.wait_share for row in rows)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": {"colour": 3}}, r"does not know \(colour\); use the version that wrote it"),
        ({"tags": []}, r"does not know \(tags\)"),
        ({"recipe": {"epochs": "seven"}}, r"is damaged \(Expected `int`, got `str` - at `\$\.recipe\.epochs`\)"),
        ({"recipe": {"epochs": 0}}, "--epochs 0 should be at least 1"),
        ({"classes": "abc"}, r"is damaged .*classes"),
        ({"fit": "stretch"}, r"is damaged .*fit"),
        ({"machine": {}}, r"is damaged .*ranks|is damaged .*device"),
    ],
)
def test_a_run_of_another_version_is_refused(changed: dict[str, object], message: str, moved_run: Path) -> None:
    path = moved_run / "recipe.json"
    document = orjson.loads(path.read_bytes())
    recipe = document["recipe"] | changed.get("recipe", {})
    path.write_bytes(orjson.dumps(document | changed | {"recipe": recipe}))
    with pytest.raises(UserError, match=message):
        read_run(moved_run)


def test_a_damaged_line_is_named(moved_run: Path) -> None:
    lines = (moved_run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (moved_run / "metrics.jsonl").write_bytes(lines[0] + lines[1][:30])
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is damaged"):
        read_metrics(moved_run)
