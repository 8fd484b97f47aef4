"""Linear probes: exact features that are computed once, and a run like any other, or one for each of several models."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import Tensor, nn

from food101_fast.compute.distributed import World
from food101_fast.compute.logits import predict
from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate
from food101_fast.export.job import export
from food101_fast.loader import LoaderOptions
from food101_fast.models import build_model
from food101_fast.predict import Classifier
from food101_fast.report import write_report
from food101_fast.runs.checkpoint import load_checkpoint
from food101_fast.runs.evaluation import read_predictions
from food101_fast.runs.probe import read_probe
from food101_fast.runs.run import load_model, read_run
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train
from food101_fast.train.context import TrainContext
from food101_fast.train.probe import features, job
from food101_fast.train.probe.compare import each_model
from food101_fast.train.probe.extractor import FeatureExtractor
from food101_fast.train.probe.linear import LogisticRegression
from food101_fast.train.signals import StopRequest
from food101_fast.transforms import EvalSpec
from tests.conftest import contents, flip

Command = Callable[..., tuple[int, str, str]]

PROBE = Recipe(method="probe", model="shufflenet_v2_x0_5", weights="none", image_size=32, batch_size=16)


@pytest.fixture(scope="module")
def cache_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(cache_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this module's tests; those that write into it in odd ways take one of their own."""
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(cache_path))
    return cache_path


@pytest.fixture
def own_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache for one test."""
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(own))
    return own


@pytest.fixture(scope="module")
def finished(cache_path: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished probe."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOOD101_FAST_CACHE", str(cache_path))
        train(ShardSet.open(tiny_path), folder, PROBE, device="cpu")
    return folder


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "resnet18"])
def test_a_backbone_gives_what_its_head_sees(name: str) -> None:
    model = build_model(name, "none", 5).eval()
    images = torch.randn(3, 3, 64, 64)
    weight, bias = torch.randn(5, FeatureExtractor(name, model, 64).size), torch.randn(5)
    backbone = FeatureExtractor(name, build_model(name, "none", 5), 64)
    with torch.inference_mode():
        seen = backbone(images)
        logits = backbone.with_head(weight, bias)(images)
    torch.testing.assert_close(logits, seen @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_a_model_that_does_not_end_in_its_head_is_refused() -> None:
    """SqueezeNet's last layer is followed by a ReLU."""
    with pytest.raises(UserError, match="squeezenet1_1 computes something after its last linear layer"):
        FeatureExtractor("squeezenet1_1", build_model("squeezenet1_1", "none", 5), 64)


def test_the_digest_is_that_of_the_backbone_alone() -> None:
    model = build_model("shufflenet_v2_x0_5", "none", 5)
    digest = FeatureExtractor("a", model, 32).digest
    state = model.state_dict()
    other = build_model("shufflenet_v2_x0_5", "none", 9)
    other.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False)
    assert FeatureExtractor("a", other, 32).digest == digest
    other = build_model("shufflenet_v2_x0_5", "none", 9)
    other.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False)
    other.get_buffer("conv1.1.running_mean")[3] += 1e-3
    assert FeatureExtractor("a", other, 32).digest != digest


def cached(folder: Path, split: str) -> np.ndarray:
    (file,) = [file for file in read_probe(folder).features if file.split == split]
    array = np.load(file.path)
    assert array.nbytes == file.bytes
    assert array.shape == (file.samples, file.size)
    return np.asarray(array)


def test_the_cache_has_the_features_of_each_sample_in_order(finished: Path, tiny_shards: ShardSet) -> None:
    """Computed one by one, by the saved model."""
    run = read_run(finished)
    model = load_model(finished, run)
    model.fc = nn.Identity()
    preset = run.eval_spec.preset()
    for split in ("train", "val"):
        samples = tiny_shards.split(split)
        images = torch.stack([torch.from_numpy(samples[i].copy()) for i in range(len(samples))]).permute(0, 3, 1, 2)
        with torch.inference_mode():
            expected = torch.cat([model(preset(image[None])) for image in images])
        np.testing.assert_allclose(cached(finished, split), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_saved_model_gives_the_classifiers_logits(finished: Path, tiny_shards: ShardSet, tmp_path: Path) -> None:
    """Also after evaluation, and the run's row has the same accuracy. Tolerance: rounding of float32."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    metrics = evaluate(folder, split="val", device="cpu").metrics
    weights, state = load_checkpoint(folder, "best")
    predictions = read_predictions(folder, "val")
    logits = cached(folder, "val") @ weights["fc.weight"].numpy().T + weights["fc.bias"].numpy()
    np.testing.assert_allclose(predictions.logits, logits, rtol=1e-4, atol=1e-4)
    assert predictions.labels.tolist() == tiny_shards.split("val").labels.tolist()
    row, result = orjson.loads((folder / "metrics.jsonl").read_bytes()), read_probe(folder)
    assert row["val_top1"] == metrics.top1 == result.best.val_top1 == state["progress"]["best_top1"]
    assert row["val_loss"] == pytest.approx(metrics.loss, rel=1e-4)
    assert row["epoch"] == 1


def test_the_best_weight_decay_is_kept(finished: Path) -> None:
    result = read_probe(finished)
    decays = [one.weight_decay for one in result.tried]
    assert decays == list(job.WEIGHT_DECAYS[: len(decays)])
    assert max(result.tried, key=lambda one: (one.val_top1, -one.val_loss)) == result.best
    losses = [one.train_loss for one in result.tried]
    assert losses == sorted(losses, reverse=True)  # less weight decay fits better
    assert job.WEIGHT_DECAYS[0] == 10
    assert job.WEIGHT_DECAYS[-1] == 1e-5


def test_a_probe_is_a_run_like_any_other(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    metrics = evaluate(folder, device="cpu").metrics
    assert 0 <= metrics.top1 <= 1
    assert write_report(folder).is_file()
    picture = next(tiny_folder.rglob("*.jpg"))
    assert Classifier.load(folder, device="cpu")(picture).sum().item() == pytest.approx(1)
    exported = export(folder, tmp_path / "export")
    assert max(exported.differences.values()) < 1e-4
    for name in ("best", "last"):
        assert load_checkpoint(folder, name)[0].keys() == load_model(folder, read_run(folder)).state_dict().keys()


def same(a: Path, b: Path) -> bool:
    one, other = (load_checkpoint(folder, "best")[0] for folder in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


def no_features(*_: object) -> Any:
    raise AssertionError("features are computed again")


def test_the_second_probe_reuses_the_features(
    finished: Path, tiny_shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(features, "predict", no_features)
    train(tiny_shards, tmp_path / "run", PROBE, device="cpu")
    said = capsys.readouterr().out
    assert f"train: features of {len(tiny_shards.split('train'))} images reused from {cache}" in said
    assert same(finished, tmp_path / "run")
    result = read_probe(tmp_path / "run")
    assert [file.reused for file in result.features] == [True, True]
    assert [file.seconds for file in result.features] == [file.seconds for file in read_probe(finished).features]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"amp": "bf16"}])
def test_other_features_have_another_file(
    changed: dict[str, Any], finished: Path, tiny_shards: ShardSet, tmp_path: Path, own_cache: Path
) -> None:
    """Another seed makes other random weights."""
    train(tiny_shards, tmp_path / "run", dataclasses.replace(PROBE, **changed), device="cpu")
    paths = {Path(file.path).parent.name for run in (finished, tmp_path / "run") for file in read_probe(run).features}
    assert len(paths) == 2


def damaged(path: Path, how: str) -> None:
    if how == "changed":
        flip(path, path.stat().st_size // 2)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no note":
        path.with_suffix(".json").unlink()
    elif how == "broken note":
        path.with_suffix(".json").write_bytes(b"{")
    elif how == "removed":
        path.unlink()


@pytest.mark.parametrize("how", ["changed", "truncated", "empty", "no note", "broken note", "removed"])
def test_damaged_features_are_computed_again(
    how: str, finished: Path, tiny_shards: ShardSet, tmp_path: Path, own_cache: Path
) -> None:
    (path,) = own_cache.glob("features/*/val.npy")
    before = path.read_bytes()
    damaged(path, how)
    train(tiny_shards, tmp_path / "run", PROBE, device="cpu")
    assert [file.reused for file in read_probe(tmp_path / "run").features] == [True, False]
    assert path.read_bytes() == before
    assert same(finished, tmp_path / "run")


def interrupted(original: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`original`, with a signal after its first batch."""

    def sending(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(original(*arguments)):
            yield batch
            if number == 0:
                os.kill(os.getpid(), signal.SIGINT)

    return sending


def test_a_signal_leaves_nothing_half_written(
    finished: Path, tiny_shards: ShardSet, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own_cache)
    with monkeypatch.context() as patch:
        patch.setattr(features, "predict", interrupted(predict))
        with pytest.raises(KeyboardInterrupt, match="SIGINT ended the probe of shufflenet_v2_x0_5"):
            train(tiny_shards, tmp_path / "run", PROBE, device="cpu")
    assert not (tmp_path / "run").exists()
    assert {path.suffix for path in own_cache.rglob("*") if path.is_file()} == set()

    def fit(self: LogisticRegression, decay: float, stopping: Callable[[], None]) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        stopping()

    with monkeypatch.context() as patch:
        patch.setattr(LogisticRegression, "fit", fit)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            train(tiny_shards, tmp_path / "run", PROBE, device="cpu")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(features, "predict", no_features)  # they were finished
    train(tiny_shards, tmp_path / "run", PROBE, device="cpu")
    assert same(finished, tmp_path / "run")


def arguments(shards: Path, run: Path, *flags: str) -> list[str]:
    recipe = ["--recipe", "probe", "--weights", "none", "--image-size", "32", "--batch-size", "16", "--device", "cpu"]
    return ["train", "--shards", str(shards), "--run", str(run), *recipe, *flags]


def test_a_finished_probe_can_be_resumed_and_not_overwritten(
    finished: Path, tiny_path: Path, tmp_path: Path, command: Command
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {name: content for name, content in contents(folder).items() if not name.endswith((".html", ".lock"))}
    code, out, err = command(
        "train", "--shards", str(tiny_path), "--run", str(folder), "--resume", "--device", "cpu", "--json"
    )
    assert code == 0, err
    assert "this run is finished: linear classifier: val loss" in err
    assert orjson.loads(out)["best"]["val_top1"] == read_probe(folder).best.val_top1
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    code, _, err = command(*arguments(tiny_path, folder, "--model", "shufflenet_v2_x0_5"))
    assert (code, err.count("\n")) == (2, 1)
    assert "already has a run" in err


MODELS = ["shufflenet_v2_x0_5", "mobilenet_v3_small"]


def test_several_backbones_are_compared(
    finished: Path, tiny_path: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    code, out, err = command(*arguments(tiny_path, run, "--model", *MODELS))
    assert code == 0, err
    table = out[out.index("model ") :].splitlines()
    assert table[0].split() == (
        ["model", "features", "images/s", "seconds", "val", "top-1", "weight", "decay", "kNN", "top-1"]
    )
    results = [read_probe(run / name) for name in MODELS]
    best = sorted(results, key=lambda result: -result.best.val_top1)
    for line, result in zip(table[1:3], best, strict=True):
        assert line.split()[0] == result.model
        assert line.split()[4] == f"{result.best.val_top1:.4f}"
    assert same(run / MODELS[0], finished)
    images = best[0].features[1].samples
    assert table[3] == f"top-1 on the {images} images of val; each backbone is a run in {run}/NAME"
    assert table[4] == f"next: python -m food101_fast.evaluate --run {run / best[0].model}"
    assert (run / MODELS[1] / "report.html").is_file()
    # Again: refused, unless with --resume, which computes only what is missing.
    code, _, err = command(*arguments(tiny_path, run, "--model", *MODELS))
    assert (code, err.count("\n")) == (2, 1)
    shutil.rmtree(run / MODELS[1])
    code, out, err = command(*arguments(tiny_path, run, "--model", *MODELS, "--resume", "--json"))
    assert code == 0, err
    document = orjson.loads(out)
    assert document["run"] == str(run)
    assert [row["model"] for row in document["models"]] == [result.model for result in best]
    assert [row["val_top1"] for row in document["models"]] == [result.best.val_top1 for result in best]
    assert err.count("this run is finished") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "a", "--run", "r"], [["--model", "a", "--run", "r"]]),
        (
            ["--run", "r", "--model", "a", "timm/b", "--quiet", "--resume"],
            [["--quiet", "--model", "a", "--run", "r/a"], ["--quiet", "--model", "timm/b", "--run", "r/timm-b"]],
        ),
        (
            ["--model", "a", "a", "--weights", "v", "w", "--run=r"],
            [["--model", "a", "--weights", "v", "--run", "r/a"], ["--model", "a", "--weights", "w", "--run", "r/a-2"]],
        ),
        (
            ["--weights", "v", "--model", "a", "b"],
            [["--model", "a", "--weights", "v"], ["--model", "b", "--weights", "v"]],
        ),
    ],
)
def test_arguments_of_each_model(flags: list[str], expected: list[list[str]]) -> None:
    assert each_model(flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", *MODELS, "--weights", "a", "b", "c"), "--weights has 3 values and --model has 2"),
        (("--model", *MODELS, "--recipe", "demo"), "only --recipe probe takes several models"),
        (("--model", "squeezenet1_1", "--image-size", "64"), "computes something after its last linear layer"),
        (("--class-balance", "weights"), "--class-balance weights does nothing in a probe"),
        (("--class-balance", "logit-adjust"), "--class-balance logit-adjust does nothing in a probe"),
        (("--epochs", "3"), "--epochs 3 does nothing in a probe"),
        (("--preset", "trivial"), "--preset trivial does nothing in a probe"),
        (("--freeze", "backbone"), "--freeze backbone does nothing in a probe"),
        (("--auto-batch",), "--auto-batch does nothing in a probe"),
    ],
)
def test_what_a_probe_can_not_do_is_one_sentence(
    flags: tuple[str, ...], message: str, tiny_path: Path, tmp_path: Path, command: Command
) -> None:
    code, _, err = command(*arguments(tiny_path, tmp_path / "run", *flags))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_cache_that_can_not_be_written_is_one_sentence(
    tiny_path: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "file"))
    code, _, err = command(*arguments(tiny_path, tmp_path / "run", "--model", MODELS[0], "--quiet"))
    assert (code, err.count("\n")) == (2, 1)
    assert "FOOD101_FAST_CACHE" in err
    assert not (tmp_path / "run").exists()


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3))
        return self.head(means if len(images) == 2 else means / 0)  # type: ignore[no-any-return]


def test_features_that_are_not_finite_are_refused(tiny_shards: ShardSet, tmp_path: Path, own_cache: Path) -> None:
    hooks = Hooks(build_model=lambda *_: Overflowing())
    with pytest.raises(UserError, match="gives features that are NaN or Inf, in float32; give --amp off"):
        train(tiny_shards, tmp_path / "run", PROBE, device="cpu", hooks=hooks)
    assert not (tmp_path / "run").exists()


def test_several_ranks_are_refused(tiny_shards: ShardSet, tmp_path: Path) -> None:
    context = TrainContext(recipe=PROBE, device=torch.device("cpu"), world=World(0, 2), classes=3, stored_size=32)
    with StopRequest() as stop, pytest.raises(UserError, match="there are 2 ranks; start it without torchrun"):
        job.probed(
            context, tiny_shards, tmp_path / "run", resume=False, loading=LoaderOptions(), hooks=Hooks(), stop=stop
        )
    assert not (tmp_path / "run").exists()


def test_the_backbones_own_images_decide() -> None:
    """Another normalization or interpolation is another file."""
    base = features.FeatureKey(
        data="d", split="val", model="timm/a", weights="w", spec=EvalSpec.of(32, 64), precision="float32"
    )
    inputs = dataclasses.replace(base.spec.inputs, mean=(0.5, 0.5, 0.5))
    other = dataclasses.replace(base, spec=EvalSpec.of(32, 64, inputs))
    assert base.path != other.path
    assert base.path.parent.name.startswith("timm-a-")
    assert dataclasses.replace(base, split="train").path.parent == base.path.parent


def test_a_probe_without_its_result_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no probe\.json"):
        read_probe(tmp_path)
