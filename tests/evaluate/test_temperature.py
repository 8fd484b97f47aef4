"""A temperature makes the cross-entropy as low as it can be, changes no answer, and belongs to its weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from food101_fast import Classifier
from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate, evaluate_ensemble
from food101_fast.evaluate.metrics import calibration, cross_entropy
from food101_fast.evaluate.temperature import HIGHEST, LOWEST, fit_temperature
from food101_fast.runs.calibration import temperature_of
from food101_fast.runs.evaluation import read_evaluation
from food101_fast.shards import ShardSet
from tests.conftest import picture

Command = Callable[..., tuple[int, str, str]]


def drawn(temperature: float, samples: int = 4000, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels, which are drawn from the right ones."""
    random = np.random.default_rng(1)
    right = 2 * random.standard_normal((samples, classes))
    probabilities = np.exp(right) / np.exp(right).sum(axis=1, keepdims=True)
    labels = (random.random((samples, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return (temperature * right).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_it_finds_the_temperature_that_logits_were_made_with(temperature: float) -> None:
    logits, labels = drawn(temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted is not None
    assert fitted == pytest.approx(temperature, rel=0.08)
    grid = np.exp(np.linspace(np.log(fitted) - 0.02, np.log(fitted) + 0.02, 9))
    lowest = cross_entropy(logits, labels, fitted)
    assert all(cross_entropy(logits, labels, other) >= lowest - 1e-9 for other in grid)
    if temperature != 1.0:
        assert calibration(logits, labels, temperature=fitted).ece < 0.5 * calibration(logits, labels).ece


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 1000))
def test_it_is_within_its_limits_and_never_worse(classes: int, samples: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (10 * random.standard_normal((samples, classes))).astype(np.float32)
    labels = random.integers(0, classes, samples)
    fitted = fit_temperature(logits, labels)
    assert fitted is not None
    assert LOWEST <= fitted <= HIGHEST
    assert cross_entropy(logits, labels, fitted) <= cross_entropy(logits, labels)


def test_what_has_no_best_temperature() -> None:
    labels = np.arange(4)
    right = np.eye(4, dtype=np.float32)
    assert fit_temperature(right, labels) == pytest.approx(LOWEST, rel=1e-3)  # all correct: the surer the better
    assert fit_temperature(right, (labels + 1) % 4) == pytest.approx(HIGHEST, rel=1e-3)
    assert fit_temperature(np.ones((4, 1), np.float32), np.zeros(4, np.int64)) == 1.0
    assert fit_temperature(np.zeros((4, 4), np.float32), labels) == 1.0
    for bad in (np.nan, np.inf):
        assert fit_temperature(np.where(right > 0, np.float32(bad), right), labels) is None
    assert fit_temperature(np.empty((0, 4), np.float32), np.empty(0, np.int64)) is None
    # A class that is ruled out, as the average of views may do.
    assert fit_temperature(np.where(right > 0, right, -np.inf).astype(np.float32), labels) == 1.0


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_evaluating_test_predicts_val_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "calibration.json").unlink()
    seen: list[str] = []
    split_of = ShardSet.split

    def noted(self: ShardSet, name: str, **options: object) -> object:
        seen.append(name)
        return split_of(self, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("food101_fast.shards.ShardSet.split", noted)
    plain = evaluate(run, device="cpu", calibration=False).metrics
    assert "val" not in seen
    assert plain.calibrated is None
    assert not (run / "calibration.json").exists()
    metrics = evaluate(run, device="cpu").metrics
    assert seen.count("val") > 0
    assert metrics.calibrated is not None
    assert (metrics.top1, metrics.loss, metrics.per_class) == (plain.top1, plain.loss, plain.per_class)
    assert not (run / "val_metrics.json").exists()
    written = os.stat(run / "calibration.json").st_mtime_ns
    assert evaluate(run, device="cpu").metrics == metrics
    assert os.stat(run / "calibration.json").st_mtime_ns == written


def test_val_gives_the_same_temperature_as_test(run: Path) -> None:
    of_test = evaluate(run, device="cpu").metrics.calibrated
    (run / "calibration.json").unlink()
    of_val = evaluate(run, split="val", device="cpu").metrics.calibrated
    assert of_test is not None
    assert of_val is not None
    assert of_test.temperature == of_val.temperature == temperature_of(run)
    assert of_val.loss <= read_evaluation(run, "val").loss  # type: ignore[union-attr]
    (run / "calibration.json").unlink()
    assert evaluate(run, device="cpu").metrics.calibrated == of_test  # from val's stored predictions
    assert evaluate(run, split="train", device="cpu").metrics.calibrated is None


def test_views_have_a_temperature_of_their_own(run: Path) -> None:
    before = (run / "calibration.json").read_bytes()
    evaluate(run, device="cpu", tta="flip")
    assert (run / "calibration.json").read_bytes() == before
    assert orjson.loads((run / "calibration_flip.json").read_bytes())["tta"] == "flip"


def with_temperature(run: Path, temperature: float) -> None:
    path = run / "calibration.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"temperature": temperature}))


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_a_calibrated_classifier_divides_its_logits(run: Path, temperature: float) -> None:
    with_temperature(run, temperature)
    pictures = [picture(seed, 40, 40) for seed in range(6)]
    plain = Classifier.load(run, device="cpu")(pictures)
    calibrated = Classifier.load(run, device="cpu", calibrated=True)(pictures)
    torch.testing.assert_close(calibrated, (plain.log() / temperature).softmax(dim=1), rtol=1e-4, atol=1e-6)
    assert calibrated.argmax(dim=1).equal(plain.argmax(dim=1))
    sure, surer = plain.max(dim=1).values, calibrated.max(dim=1).values
    assert bool((surer > sure).all() if temperature < 1 else (surer < sure).all())


def test_predict_and_export_use_it(run: Path, tmp_path: Path, command: Command) -> None:
    with_temperature(run, 3.0)
    picture(1, 50, 40).save(tmp_path / "a.png")
    outs = [
        command("predict", "--run", str(run), str(tmp_path / "a.png"), "--json", *flags)[1]
        for flags in ([], ["--calibrated"])
    ]
    plain, calibrated = (orjson.loads(out)["predictions"] for out in outs)
    assert [one["class"] for one in plain] == [one["class"] for one in calibrated]
    assert plain[0]["probability"] > calibrated[0]["probability"]
    code, _, _ = command("export", "--run", str(run), "--out", str(tmp_path / "out"), "--calibrated")
    assert code == 0
    assert orjson.loads((tmp_path / "out" / "config.json").read_bytes())["temperature"] == 3.0
    assert "divide the model's logits by the temperature 3.0000" in (tmp_path / "out" / "README.md").read_text()
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    image = torch.from_numpy(np.asarray(picture(1, 50, 40)).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        got = program(image)
    torch.testing.assert_close(got, Classifier.load(run, device="cpu", calibrated=True)(picture(1, 50, 40)))


@pytest.mark.parametrize("name", ["predict", "export"])
def test_without_a_temperature_it_is_one_sentence(run: Path, tmp_path: Path, command: Command, name: str) -> None:
    picture(1, 50, 40).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png")] if name == "predict" else []
    (run / "calibration.json").unlink()
    code, _, err = command(name, "--run", str(run), *arguments, "--calibrated")
    assert (code, err.count("\n")) == (2, 1)
    assert f"run `python -m food101_fast.evaluate --run {run}` first" in err


def test_a_temperature_of_other_weights_is_not_used(run: Path) -> None:
    path = run / "calibration.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"weights": "0" * 16}))
    with pytest.raises(UserError, match="has no temperature for its weights yet"):
        temperature_of(run)
    evaluate(run, device="cpu")  # fits it again
    assert temperature_of(run) > 0
    path.write_bytes(b'{"temperature": -1}')
    with pytest.raises(UserError, match=r"calibration.json is damaged .*; evaluate the run again"):
        temperature_of(run)


def test_an_average_has_no_temperature(run: Path, tiny_run: Path) -> None:
    assert "calibrated" not in vars(evaluate_ensemble([run, tiny_run]).metrics)


def test_metrics_from_before_have_a_balanced_accuracy(run: Path) -> None:
    metrics = read_evaluation(run, "test")
    assert metrics is not None
    document = orjson.loads((run / "test_metrics.json").read_bytes())
    for key in ("balanced_accuracy", "calibrated"):
        del document[key]
    (run / "test_metrics.json").write_bytes(orjson.dumps(document))
    again = read_evaluation(run, "test")
    assert again is not None
    assert again.balanced_accuracy == pytest.approx(metrics.balanced_accuracy)
    assert again.calibrated is None
