"""Evaluating a run: files that agree with each other, and a run that is refused with one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import xxhash
from PIL import Image

from food101_fast.evaluate import evaluate
from food101_fast.evaluate.metrics import calibration, compute_metrics, cross_entropy
from food101_fast.plots import plot_class_counts, plot_confusion, png
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.metrics import CalibratedScores, SplitMetrics
from food101_fast.shards import ShardSet


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_the_files_agree(run: Path, tiny_shards: ShardSet, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("evaluate", "--run", str(run), "--device", "cpu")
    assert code == 0
    metrics = orjson.loads((run / "test_metrics.json").read_bytes())
    assert f"top-1 {metrics['top1']:.4f} (95 % interval" in out
    with np.load(run / "predictions.npz") as arrays:
        assert arrays["ids"].tolist() == list(range(len(tiny_shards.split("test"))))
        assert arrays["labels"].tolist() == tiny_shards.split("test").labels.tolist()
        again = compute_metrics(arrays["logits"], arrays["labels"], tiny_shards.classes)
    weights = weights_hash(run, "best")
    stored = xxhash.xxh3_64_hexdigest((run / "predictions.npz").read_bytes())
    temperature = orjson.loads((run / "calibration.json").read_bytes())["temperature"]
    with np.load(run / "predictions.npz") as arrays:
        scaled = calibration(arrays["logits"], arrays["labels"], temperature=temperature)
        loss = cross_entropy(arrays["logits"], arrays["labels"], temperature)
    calibrated = CalibratedScores(temperature=temperature, fitted_on="val", loss=loss, ece=scaled.ece)
    assert f"with temperature {temperature:.3f}, fitted on val: cross-entropy {loss:.4f}, expected" in out
    protocol = "stratified 0.8 / 0.1 / 0.1, seed 0"
    expected = SplitMetrics(
        split="test", tta="none", weights=weights, **vars(again), predictions=stored, protocol=protocol,
        calibrated=calibrated,
    )  # fmt: skip
    assert read_evaluation(run, "test") == expected
    assert metrics == orjson.loads(orjson.dumps(expected))
    assert list(metrics) == [
        "split", "tta", "weights", "protocol", "samples", "loss", "top1", "top5", "top1_interval", "macro_f1",
        "balanced_accuracy", "calibration", "confused", "per_class", "predictions", "calibrated",
    ]  # fmt: skip
    for name in ("confusion_matrix.png", "curves.png", "class_counts.png"):
        assert str(run / name) in out
        with Image.open(run / name) as image:
            assert min(image.size) > 200


def test_batch_size_changes_nothing(run: Path) -> None:
    results = [evaluate(run, device="cpu", batch_size=size).metrics for size in (1, 256)]
    assert results[0].top1 == results[1].top1
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)


def test_another_split_has_files_of_its_own(run: Path) -> None:
    evaluate(run, split="val", device="cpu")
    assert (run / "val_metrics.json").exists()
    assert (run / "val_predictions.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--run", "nowhere"], "has no run"), (["--shards", "nowhere"], "there is no shards folder nowhere")],
)
def test_a_mistake_is_one_sentence(
    run: Path, command: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    code, _, err = command("evaluate", *(["--run", str(run)] if "--run" not in arguments else []), *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize("classes", [1, 10, 101])
def test_plots_are_drawn_for_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    names = [f"class_{i}" for i in range(classes)]
    (tmp_path / "confusion.png").write_bytes(png(plot_confusion(np.eye(classes), names), tight=True))
    counts = {"train": [8] * classes, "val": [1] * classes}
    (tmp_path / "counts.png").write_bytes(png(plot_class_counts(counts, names)))
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert max(image.size) < 4000
