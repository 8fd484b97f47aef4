"""When a report is written, and what it says when there is little to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from food101_fast.evaluate import evaluate
from food101_fast.evaluate.metrics import ConfusionCells
from food101_fast.report import page, run_page, write_comparison, write_report
from food101_fast.report.comparison import Cell, comparison_page
from food101_fast.report.findings import Evaluated, read_findings
from food101_fast.report.matrix import MOST_CLASSES, matrix

Command = Callable[..., tuple[int, str, str]]
NOT_EVALUATED = "was not evaluated since this run was trained"
NO_PICTURES = "There are no pictures: the shards are not where the run was trained from"


def test_train_and_evaluate_write_it(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "run"
    arguments = ["--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--epochs", "1"]
    code, out, _ = command(
        "train", "--shards", str(tiny_path), "--run", str(folder), *arguments, "--batch-size", "8", "--device", "cpu"
    )
    assert code == 0
    assert str(folder / "report.html") in out
    assert NOT_EVALUATED in (folder / "report.html").read_text()
    code, out, _ = command("evaluate", "--run", str(folder), "--device", "cpu")
    assert code == 0
    assert str(folder / "report.html") in out
    assert NOT_EVALUATED not in (folder / "report.html").read_text()


def test_it_is_the_same_each_time(tiny_run: Path, command: Command) -> None:
    first = write_report(tiny_run).read_bytes()
    code, out, _ = command("report", "--run", str(tiny_run))
    assert (code, out) == (0, f"{tiny_run / 'report.html'}\n")
    assert (tiny_run / "report.html").read_bytes() == first


def test_without_shards_only_the_pictures_are_missing(moved_run: Path, tiny_path: Path) -> None:
    text = write_report(moved_run).read_text()
    assert NO_PICTURES in text
    assert "data:image/jpeg" not in text
    assert 'id="confusion"' in text
    text = write_report(moved_run, shards=str(tiny_path)).read_text()
    assert NO_PICTURES not in text
    assert "data:image/jpeg" in text


def test_an_evaluation_of_other_weights_is_left_out(tiny_run: Path, moved_run: Path) -> None:
    metrics = orjson.loads((moved_run / "test_metrics.json").read_bytes())
    (moved_run / "test_metrics.json").write_bytes(orjson.dumps(metrics | {"weights": "0" * 16}))
    assert NOT_EVALUATED in write_report(moved_run).read_text()
    assert (
        "was not evaluated on the test split"
        in write_comparison([tiny_run, moved_run], moved_run / "c.html").read_text()
    )


def test_an_average_with_other_weights_is_left_out(moved_run: Path) -> None:
    metrics = orjson.loads((moved_run / "test_metrics.json").read_bytes())
    own = {key: metrics[key] for key in ("weights", "tta", "top1", "top5", "loss")}
    path = moved_run / "test_ensemble_metrics.json"

    def found(**changed: object) -> Evaluated:
        path.write_bytes(orjson.dumps(metrics | {"members": [{"run": "a", **own, **changed}]}))
        evaluated = read_findings(moved_run, "test").evaluated
        assert evaluated is not None
        return evaluated

    assert found(weights="0" * 16).ensemble is None
    assert found().ensemble is not None
    assert found(tta="flip").ensemble is None  # evaluated again since


def diagonal(classes: int) -> ConfusionCells:
    every = np.arange(classes)
    return ConfusionCells(true=every, predicted=every, count=np.ones(classes, np.int64))


def test_a_recipe_lists_what_is_set(tiny_run: Path) -> None:
    found = read_findings(tiny_run, "test")
    taught = replace(found.run.recipe, teacher=("runs/a", "runs/b"))
    other = replace(found, run=replace(found.run, recipe=taught), folder=tiny_run.parent)
    plain, of_two = (page._render("report.html.jinja", run_page.run_page(one)) for one in (found, other))
    assert "<dt>teacher</dt>" not in plain
    assert "<div><dt>teacher</dt><dd>runs/a, runs/b</dd></div>" in of_two
    compared = page._render("comparison.html.jinja", comparison_page([found, other]))
    assert "<tr><td>teacher</td><td>-</td><td>runs/a, runs/b</td></tr>" in compared


def test_too_many_classes_have_no_matrix() -> None:
    names = [str(i) for i in range(MOST_CLASSES + 1)]
    assert matrix(diagonal(len(names)), names) is None
    assert matrix(diagonal(len(names) - 1), names[:-1]) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report needs one of --run, and --compare"),
        (["--run", "{run}", "--compare", "{run}", "a"], "report needs one of --run, and --compare"),
        (["--compare", "{run}"], "--compare needs the folders of two runs or more"),
        (["--compare", "{run}", "{run}"], "--compare needs the folders of two runs or more"),
        (["--compare", "{run}", "nowhere"], "nowhere has no run"),
        (["--run", "nowhere"], "nowhere has no run"),
        (["--run", "{run}", "--shards", "nowhere"], "there is no shards folder nowhere"),
        (["--run", "{run}", "--out", "a.html"], "--out needs --compare"),
        (["--compare", "{run}", "a", "--shards", "b"], "--shards and --overlay need --run"),
    ],
)
def test_a_mistake_is_one_sentence(tiny_run: Path, command: Command, arguments: list[str], message: str) -> None:
    code, _, err = command("report", *(argument.format(run=tiny_run) for argument in arguments))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_page_that_cannot_be_written_is_one_sentence(tiny_run: Path, moved_run: Path, command: Command) -> None:
    (moved_run / "file").write_text("where a folder is wanted")
    out = str(moved_run / "file" / "c.html")
    code, _, err = command("report", "--compare", str(tiny_run), str(moved_run), "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert "could not be written" in err


def test_a_run_without_an_epoch_has_no_report(moved_run: Path, command: Command) -> None:
    (moved_run / "metrics.jsonl").unlink()
    code, _, err = command("report", "--run", str(moved_run))
    assert (code, err.count("\n")) == (2, 1)
    assert "has no metrics.jsonl of a finished epoch" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test_metrics.json", b"{"),
        ("metrics.jsonl", b"{}\nno line\n"),
        ("test_ensemble_metrics.json", b"["),
    ],
)
def test_a_damaged_file_of_a_run_is_one_sentence(moved_run: Path, command: Command, name: str, content: bytes) -> None:
    (moved_run / name).write_bytes(content)
    code, _, err = command("report", "--run", str(moved_run))
    assert (code, err.count("\n")) == (2, 1)
    assert name in err


def test_metrics_of_other_predictions_are_not_shown(moved_run: Path) -> None:
    """As a kill leaves them after an evaluation has written its predictions."""
    assert NOT_EVALUATED not in write_report(moved_run).read_text()
    (moved_run / "predictions.npz").write_bytes(b"PK")
    assert NOT_EVALUATED in write_report(moved_run).read_text()
    (moved_run / "predictions.npz").unlink()
    assert NOT_EVALUATED in write_report(moved_run).read_text()


def test_another_split_has_a_report_of_its_own(moved_run: Path, tiny_path: Path, command: Command) -> None:
    before = write_report(moved_run).read_bytes()
    assert "--split val</code>" in write_report(moved_run, split="val").read_text()
    code, out, _ = command(
        "evaluate", "--run", str(moved_run), "--shards", str(tiny_path), "--split", "val", "--device", "cpu"
    )
    assert code == 0
    assert str(moved_run / "val_report.html") in out
    assert NOT_EVALUATED not in (moved_run / "val_report.html").read_text()
    assert (moved_run / "report.html").read_bytes() == before


def test_a_comparison_marks_what_is_there_and_names_views(moved_run: Path, tiny_run: Path, tiny_path: Path) -> None:
    evaluate(moved_run, shards=tiny_path, device="cpu", tta="flip")
    rows = comparison_page([read_findings(folder, "test") for folder in (tiny_run, moved_run)]).rows
    assert rows[0].title == "test-time augmentation"
    assert rows[0].cells == (Cell(text="none", best=False), Cell(text="flip", best=False))
    (moved_run / "test_metrics.json").unlink()
    rows = comparison_page([read_findings(folder, "test") for folder in (tiny_run, moved_run)]).rows
    assert Cell(text="-", best=False) in [row.cells[1] for row in rows]
    assert Cell(text="-", best=True) not in [row.cells[1] for row in rows]
