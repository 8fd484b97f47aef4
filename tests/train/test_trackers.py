"""Trackers: what they log is read back, with the readers of each; and whatever happens to them, the run is the same."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import safetensors.torch
import torch

from food101_fast.errors import UserError
from food101_fast.runs.results import read_metrics
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, RunOptions, train
from food101_fast.train.options import Track
from food101_fast.train.trackers import trackers as kinds
from food101_fast.train.trackers.tracker import TrackedRun
from tests.train.launch import plain_model

# Of libraries that MLflow imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=8, learning_rate=1e-3)
HOOKS = Hooks(build_model=plain_model)  # a model that trains in no time
STEPS = 7  # in an epoch of the 58 training images
EVERY_OTHER = [2, 4, 6, 7, 8, 10, 12, 14]  # every second step, and the last one of an epoch


@pytest.fixture(scope="module")
def alone(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs without trackers."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(ShardSet.open(tiny_path), run, dataclasses.replace(TINY, epochs=2), device="cpu", hooks=HOOKS)
    return run


@pytest.fixture(scope="module")
def tracked(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that every tracker logs: an epoch, and another one after --resume.

    wandb is offline. MLflow uses its own default, a database in the working directory.
    """
    for name, module in (("wandb", "wandb"), ("mlflow", "mlflow"), ("mlflow", "alembic"), ("tensorboard",) * 2):
        pytest.importorskip(module, reason=f"needs the extra {name}")
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
            patch.setenv(f"WANDB_{name}", str(tmp_path_factory.mktemp("own")))
        for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)
        run = folder / "runs" / "my run"
        options = RunOptions(track=("wandb", "mlflow", "tensorboard"), log_steps=2, track_checkpoints=True)
        for epochs in (1, 2):
            recipe = dataclasses.replace(TINY, epochs=epochs)
            shards = ShardSet.open(tiny_path)
            train(shards, run, recipe, device="cpu", resume=epochs > 1, options=options, hooks=HOOKS)
        yield run


def records(path: Path) -> list[Any]:
    """The records of a `.wandb` file: a log as of LevelDB, in blocks of 32 KiB, of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of the block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(run: Path) -> list[dict[str, Any]]:
    """All rows that wandb has, of all starts of a run."""
    rows = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                rows.append(items | {"_step": record.history.step.num})
    return rows


def test_wandb_has_every_step_once_and_the_validation(tracked: Path) -> None:
    rows = history(tracked)
    assert [row["_step"] for row in rows if "train/loss" in row] == EVERY_OTHER
    shown = {row["_step"]: row for row in rows}
    for row in read_metrics(tracked):
        assert shown[row.step]["validation/top1"] == row.val_top1
        assert shown[row.step]["train/loss"] == pytest.approx(row.train_loss)
        assert shown[row.step]["epoch"] == row.epoch


def test_wandb_continues_its_run_with_recipe_summary_report_and_checkpoint(tracked: Path) -> None:
    own = orjson.loads((tracked / "tracking" / "wandb.json").read_bytes())
    assert own["project"] == "food101-fast"
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    artifacts: set[str] = set()
    names = set()
    for path in tracked.glob("wandb/offline-run-*/*.wandb"):
        assert path.name == f"run-{own['id']}.wandb"
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                names.add((record.run.display_name, record.run.project))
            elif kind == "config":
                config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            elif kind == "summary":
                summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            elif kind == "artifact":
                artifacts |= {entry.path for entry in record.artifact.manifest.contents}
    assert names == {("my run", "food101-fast")}
    assert config["learning_rate"] == TINY.learning_rate
    assert (config["data.classes"], config["data.train_images"], config["weights"]) == (3, 58, "none")
    best = max(read_metrics(tracked), key=lambda row: row.val_top1)
    assert summary["best/top1"] == best.val_top1
    assert {row["report/page/_type"] for row in history(tracked) if "report/page/_type" in row} == {"html-file"}
    assert {row["report/curves/_type"] for row in history(tracked) if "report/curves/_type" in row} == {"image-file"}
    assert {"model.safetensors", "state.pt"} <= artifacts


def test_wandb_writes_into_the_run_only(tracked: Path) -> None:
    folder = tracked.parents[1]
    assert {path.name for path in folder.iterdir()} == {"runs", "mlflow.db", "mlruns"}  # the last two are MLflow's


def test_mlflow_has_one_run_with_everything_once(tracked: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("food101-fast")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")

    def points(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]

    rows = read_metrics(tracked)
    assert [step for step, _ in points("train/loss")] == EVERY_OTHER
    assert points("validation/top1") == [(row.step, row.val_top1) for row in rows]
    assert run.data.metrics["best/top1"] == max(row.val_top1 for row in rows)
    assert run.data.params["learning_rate"] == "0.001"
    assert (run.data.params["epochs"], run.data.tags["epochs"]) == ("1", "2")  # a parameter can't be changed
    assert run.data.params["data.train_images"] == "58"
    folder = tracked.parents[1] / "mlruns"
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert files["report.html"].read_bytes() == (tracked / "report.html").read_bytes()
    assert {"curves.png", "class_counts.png", "model.safetensors"} <= files.keys()


def state(run: Path) -> dict[str, Any]:
    """What a run computed."""
    rows = [{**vars(row), "timing": None} for row in read_metrics(run)]
    return {"rows": rows, "weights": safetensors.torch.load_file(run / "checkpoints" / "last" / "model.safetensors")}


def test_a_tracked_run_computes_the_same(tracked: Path, alone: Path) -> None:
    """Although the run was interrupted after an epoch."""
    one, other = state(alone), state(tracked)
    assert one["rows"] == other["rows"]
    assert all(torch.equal(one["weights"][key], other["weights"][key]) for key in one["weights"])


class Fake:
    """A tracker that fails, or hangs, in one of its methods."""

    address = None

    def __init__(self, run: TrackedRun, failing: str, how: Callable[[], object]) -> None:
        self._failing, self._how = failing, how
        self._call("start")

    def _call(self, name: str, *_: object) -> None:
        if name == self._failing:
            self._how()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self._call(name, *arguments)


def failing_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


FAILURES: dict[str, dict[Track, tuple[str, BaseException, str]]] = {
    "in every method": {
        "wandb": ("start", ConnectionError("no network"), "no network"),
        "mlflow": ("metrics", OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        "tensorboard": ("close", SystemExit(3), "3"),
    },
    "at the end": {
        "wandb": ("totals", KeyError("key"), "'key'"),
        "mlflow": ("report", ValueError("no\nreport"), "no"),
        "tensorboard": ("artifact", RuntimeError(), "RuntimeError"),
    },
}


def track_with(monkeypatch: pytest.MonkeyPatch, fakes: dict[Track, tuple[str, Callable[[], object]]]) -> None:
    for name, (method, how) in fakes.items():
        kind = kinds.Kind(module="json", start=lambda run, method=method, how=how: Fake(run, method, how))  # type: ignore[misc]
        monkeypatch.setitem(kinds.KINDS, name, kind)


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_tracker_is_said_once_and_changes_nothing(
    case: str,
    alone: Path,
    tiny_shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    track_with(
        monkeypatch, {name: (method, failing_with(error)) for name, (method, error, _) in FAILURES[case].items()}
    )
    options = RunOptions(track=("wandb", "mlflow", "tensorboard"), track_checkpoints=True)
    train(tiny_shards, tmp_path / "run", TINY, device="cpu", options=options, hooks=HOOKS)
    said = {line for line in capsys.readouterr().err.splitlines() if "failed" in line}
    expected = {name: reason for name, (_, _, reason) in FAILURES[case].items()}
    assert said == {f"warning: {name} failed ({why}); the run goes on without it" for name, why in expected.items()}
    assert state(tmp_path / "run")["rows"] == state(alone)["rows"][:1]


def test_a_tracker_that_hangs_is_left_behind(
    alone: Path,
    tiny_shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    released = threading.Event()
    fakes: dict[Track, str] = {"wandb": "start", "mlflow": "metrics", "tensorboard": "close"}
    track_with(monkeypatch, {name: (method, released.wait) for name, method in fakes.items()})
    monkeypatch.setitem(kinds._SECONDS, "finished", 0.01)
    options = RunOptions(track=tuple(fakes))
    try:
        train(tiny_shards, tmp_path / "run", TINY, device="cpu", options=options, hooks=HOOKS)
        err = capsys.readouterr().err
        assert all(f"warning: {name} failed (it did not finish in time); the run goes on" in err for name in fakes)
        assert state(tmp_path / "run")["rows"] == state(alone)["rows"][:1]
    finally:
        released.set()


def test_a_tracker_that_falls_behind_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from food101_fast.train.trackers import worker

    monkeypatch.setattr(worker, "_MOST_WAITING", 3)
    started, released = threading.Event(), threading.Event()

    def start() -> Any:
        started.set()
        released.wait()

    slow = worker.Worker("wandb", start)
    started.wait()
    for _ in range(5):
        slow.do(lambda tracker: None)
    released.set()
    assert capsys.readouterr().err == "warning: wandb failed (3 calls wait for it); the run goes on without it\n"


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_without_its_extra_is_one_sentence(
    name: Track, tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kinds.KINDS[name].module, None)
    with pytest.raises(UserError, match=rf"--track {name} needs the extra: pip install 'food101-fast\[{name}\]'"):
        train(tiny_shards, tmp_path / "run", TINY, device="cpu", options=RunOptions(track=(name,)))
    assert not (tmp_path / "run").exists()


def test_the_flags_agree(command: Callable[..., tuple[int, str, str]]) -> None:
    assert RunOptions(track=("wandb", "tensorboard"), tensorboard=True).trackers == ("wandb", "tensorboard")
    assert RunOptions(tensorboard=True).trackers == ("tensorboard",)
    code, _, err = command("train", "--shards", "a", "--run", "b", "--track", "tensorboard", "--track-checkpoints")
    assert code == 2
    assert "--track-checkpoints needs --track wandb or mlflow" in err


def test_tensorboard_has_the_recipe_and_the_curves(tracked: Path) -> None:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    events = accumulator(str(tracked / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == EVERY_OTHER
    assert "curves" in events.Tags()["images"]
    assert events.Scalars("best/top1")[-1].step == 2 * STEPS
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| learning_rate | 0.001 |" in text


def test_a_password_in_the_address_of_a_server_is_not_kept() -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from food101_fast.train.trackers.mlflow import _has_password

    assert _has_password("https://me:secret@tracking.example/path")
    assert not _has_password("sqlite:////data/a@b/mlflow.db")
