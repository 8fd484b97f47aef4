"""When a report is written, and what it says when there is little to report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from food101_fast.evaluate import evaluate
from food101_fast.report import write_comparison, write_report
from food101_fast.report.findings import read_findings
from food101_fast.report.matrix import MOST_CLASSES, matrix
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train

Command = Callable[..., tuple[int, str, str]]
NOT_EVALUATED = "was not evaluated since this run was trained"
NO_PICTURES = "There are no pictures: the shards are not where the run was trained from"


@pytest.fixture(scope="module")
def run(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=8)
    train(ShardSet.open(tiny_path), folder, recipe, device="cpu")
    evaluate(folder, device="cpu")
    return folder


@pytest.fixture
def moved(run: Path, tmp_path: Path) -> Path:
    """The run in another place, from where its shards can't be found."""
    folder = Path(shutil.copytree(run, tmp_path / "moved"))
    description = orjson.loads((folder / "recipe.json").read_bytes())
    (folder / "recipe.json").write_bytes(orjson.dumps(description | {"shards": "/gone/shards"}))
    return folder


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


def test_it_is_the_same_each_time(run: Path, command: Command) -> None:
    first = write_report(run).read_bytes()
    code, out, _ = command("report", "--run", str(run))
    assert (code, out) == (0, f"{run / 'report.html'}\n")
    assert (run / "report.html").read_bytes() == first


def test_without_shards_only_the_pictures_are_missing(moved: Path, tiny_path: Path) -> None:
    text = write_report(moved).read_text()
    assert NO_PICTURES in text
    assert "data:image/jpeg" not in text
    assert 'id="confusion"' in text
    text = write_report(moved, shards=str(tiny_path)).read_text()
    assert NO_PICTURES not in text
    assert "data:image/jpeg" in text


def test_an_evaluation_of_other_weights_is_left_out(run: Path, moved: Path) -> None:
    metrics = orjson.loads((moved / "test_metrics.json").read_bytes())
    (moved / "test_metrics.json").write_bytes(orjson.dumps(metrics | {"weights": "0" * 16}))
    assert NOT_EVALUATED in write_report(moved).read_text()
    assert "was not evaluated on the test split" in write_comparison([run, moved], moved / "c.html").read_text()


def test_an_average_with_other_weights_is_left_out(moved: Path) -> None:
    member = {"run": "a", "weights": "0" * 16, "tta": "none", "top1": 0.5, "top5": 1.0, "loss": 1.0}
    path = moved / "test_ensemble_metrics.json"
    path.write_bytes(orjson.dumps({"members": [member]}))
    assert read_findings(moved, "test").ensemble is None
    weights = orjson.loads((moved / "test_metrics.json").read_bytes())["weights"]
    path.write_bytes(orjson.dumps({"members": [member | {"weights": weights}]}))
    assert read_findings(moved, "test").ensemble is not None


def test_too_many_classes_have_no_matrix() -> None:
    import numpy as np

    names = [str(i) for i in range(MOST_CLASSES + 1)]
    assert matrix(np.eye(len(names), dtype=np.int64), names) is None
    assert matrix(np.eye(len(names) - 1, dtype=np.int64), names[:-1]) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report needs either --run, or --compare"),
        (["--run", "{run}", "--compare", "{run}", "a"], "report needs either --run, or --compare"),
        (["--compare", "{run}"], "--compare needs the folders of two runs or more"),
        (["--compare", "{run}", "{run}"], "--compare needs the folders of two runs or more"),
        (["--compare", "{run}", "nowhere"], "nowhere holds no run"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "{run}", "--shards", "nowhere"], "there is no shards folder nowhere"),
        (["--run", "{run}", "--out", "a.html"], "--out goes with --compare"),
        (["--compare", "{run}", "a", "--shards", "b"], "--shards goes with --run"),
    ],
)
def test_a_mistake_is_one_sentence(run: Path, command: Command, arguments: list[str], message: str) -> None:
    code, _, err = command("report", *(argument.format(run=run) for argument in arguments))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_page_that_cannot_be_written_is_one_sentence(run: Path, moved: Path, command: Command) -> None:
    code, _, err = command("report", "--compare", str(run), str(moved), "--out", str(moved / "none" / "c.html"))
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot write" in err


def test_a_run_without_an_epoch_has_no_report(moved: Path, command: Command) -> None:
    (moved / "metrics.jsonl").unlink()
    code, _, err = command("report", "--run", str(moved))
    assert (code, err.count("\n")) == (2, 1)
    assert "has no finished epoch yet" in err
