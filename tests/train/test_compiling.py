"""When `--compile auto` compiles, what it remembers, and where compiled code is kept."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.compute.precision import Precision
from food101_fast.runs.recipe import Compile
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train.compiling import (
    CACHE_VARIABLE,
    AutoCompile,
    CompileTimes,
    chosen_at_once,
    cudnn_searches,
    graph_name,
    use_cache_folder,
    worth_compiling,
)
from food101_fast.train.schedule import Phase
from food101_fast.train.step import TrainStep
from tests.train.test_validation_graph import SMALL
from tests.train.test_validation_graph import graphs as graphs  # a fixture

CPU = torch.device("cpu")
RECIPE = Recipe(weights="none", image_size=32, epochs=3, batch_size=4, patience=None)  # 14 steps in an epoch


@given(
    steps=st.integers(0, 10**6),
    step=st.floats(0, 10),
    compiling=st.floats(1e-3, 1e4),
    speedup=st.floats(1, 4),
)
def test_compiling_is_worth_it_where_the_whole_run_is_shorter(
    steps: int, step: float, compiling: float, speedup: float
) -> None:
    eager, compiled = steps * step, compiling + steps * step / speedup
    if abs(eager - compiled) > 1e-6 * max(eager, compiled):
        choice = worth_compiling(steps_left=steps, step_seconds=step, compile_seconds=compiling, speedup=speedup)
        assert choice == (compiled < eager)


def test_only_auto_on_cuda_is_measured() -> None:
    expected: dict[Compile, tuple[bool, bool | None]] = {
        "auto": (False, None), "on": (True, True), "off": (False, False)
    }  # fmt: skip
    for choice, (cpu, cuda) in expected.items():
        recipe = dataclasses.replace(RECIPE, compile=choice)
        assert chosen_at_once(recipe, CPU) is cpu
        assert chosen_at_once(recipe, torch.device("cuda", 0)) is cuda


def test_times_of_earlier_runs_replace_the_estimate(tmp_path: Path) -> None:
    times = CompileTimes(tmp_path)
    guess, known = times.estimate("a")
    assert guess > 0
    assert not known
    times.note("a", 100.0)
    kept, known = CompileTimes(tmp_path).estimate("a")
    assert known
    assert 0 < kept < 100  # its compiled code is there now
    times.note("a", 20.0)
    times.note("a", 30.0)
    assert CompileTimes(tmp_path).estimate("a") == (30.0, True)
    assert times.estimate("b") == (guess, False)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b'{"a": 3}', b'{"a": []}', b'{"a": ["x"]}', b'{"a": [1, 2, 3]}']
)
def test_damaged_times_count_as_none(content: bytes, tmp_path: Path) -> None:
    times = CompileTimes(tmp_path)
    times.note("a", 1.0)
    [path] = tmp_path.iterdir()
    path.write_bytes(content)
    assert not times.estimate("a")[1]
    times.note("a", 7.0)
    times.note("a", 8.0)
    assert times.estimate("a") == (8.0, True)


def test_times_that_can_not_be_kept_are_no_error(tmp_path: Path) -> None:
    for times in (CompileTimes(None), CompileTimes(tmp_path / "missing")):
        times.note("a", 1.0)
        assert not times.estimate("a")[1]


def test_each_graph_has_its_own_times() -> None:
    names = {graph_name(RECIPE, Phase(32, 0), CPU, 1)}
    names |= {graph_name(RECIPE, phase, CPU, 1) for phase in (Phase(64, 0), Phase(32, 3))}
    names |= {
        graph_name(dataclasses.replace(RECIPE, **fields), Phase(32, 0), CPU, 1)
        for fields in (
            *({"model": "resnet18"}, {"batch_size": 8}, {"amp": "bf16"}, {"compile_mode": "max-autotune"}),
            *({"preset": "augmix"}, {"mixup_alpha": 0.5}, {"cutmix_alpha": 0.5}, {"erasing": 0.5}),
        )
    }
    assert len(names) == 11
    # What changes no graph: as many images at a time, and a longer run.
    same = dataclasses.replace(RECIPE, batch_size=16, accumulate=2, epochs=9)
    assert graph_name(same, Phase(32, 0), CPU, 2) == graph_name(RECIPE, Phase(32, 0), CPU, 1)


def test_compiled_code_is_kept_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(CACHE_VARIABLE, "/chosen/by/the/user")
    use_cache_folder()
    assert os.environ[CACHE_VARIABLE] == "/chosen/by/the/user"
    monkeypatch.delenv(CACHE_VARIABLE)
    use_cache_folder()
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "cache" / "compiled")
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    assert cache_dir() == str(tmp_path / "cache" / "compiled")
    monkeypatch.setenv(CACHE_VARIABLE, default_cache_dir())  # by torch itself
    use_cache_folder()
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "cache" / "compiled")
    monkeypatch.delenv(CACHE_VARIABLE)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "file"))
    use_cache_folder()
    assert CACHE_VARIABLE not in os.environ


@pytest.mark.slow
def test_a_second_process_compiles_from_the_cache(tmp_path: Path) -> None:
    """With torch's defaults; its compiler is imported before the folder is chosen, as in a run."""
    program = """
import torch, torch._dynamo
from food101_fast.train.compiling import use_cache_folder
use_cache_folder()
weight = torch.ones(3, requires_grad=True)
torch.compile(lambda x: (x * weight).sin().sum(), dynamic=False)(torch.ones(3)).backward()
counters = torch._dynamo.utils.counters
print(counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"])
"""
    environment = {name: value for name, value in os.environ.items() if name != CACHE_VARIABLE}
    environment |= {"FOOD101_FAST_CACHE": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    hits = []
    for _ in range(2):
        shutil.rmtree(tmp_path / "tmp", ignore_errors=True)  # as a restart does
        (tmp_path / "tmp").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        hits.append(int(done.stdout))
    assert hits[0] == 0
    assert hits[1] > 0


def shards_of(samples: int) -> Any:
    """Shards of which only the number of training images matters."""
    return SimpleNamespace(manifest=SimpleNamespace(splits={"train": SimpleNamespace(samples=samples)}))


@pytest.mark.parametrize(
    ("changed", "samples", "searches"),
    [
        ({}, 79_999, False),
        ({}, 80_000, True),
        ({"epochs": 4}, 79_999, True),
        ({}, None, True),  # the batch size is not known yet
        ({"cudnn_benchmark": True}, 80, True),
        ({"cudnn_benchmark": False}, 1_000_000, False),
        ({"method": "probe", "epochs": 7, "learning_rate": 5e-5}, 1_000_000, False),
    ],
)
def test_cudnn_searches_in_long_runs(changed: dict[str, Any], samples: int | None, searches: bool) -> None:
    """10,000 steps and more."""
    recipe = Recipe(**{"weights": "none", "batch_size": 16, "epochs": 2, **changed})
    assert cudnn_searches(recipe, None if samples is None else shards_of(samples)) == searches


def test_waiting_for_data_is_no_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the first steps, which take an hour each here."""
    clock = 0.0
    monkeypatch.setattr("food101_fast.train.compiling.time.perf_counter", lambda: clock)
    auto, results = AutoCompile(Precision("off", CPU), CPU), []
    for number in range(auto.steps_needed + 5):
        clock += 3600 if number < 5 else 0.25 + 0.5
        results.append(auto.step_done(waited=100 + 0.5 * number))
    measured = [result for result in results if result is not None]
    assert measured == [pytest.approx(0.25)]
    assert results.index(measured[0]) == auto.steps_needed - 1


def test_the_line_says_what_and_why(tmp_path: Path) -> None:
    times = CompileTimes(tmp_path)
    auto = AutoCompile(Precision("bf16", CPU), CPU)
    choice = auto.choose(4_400, 0.007, ["a"], times, graphed=False)
    assert not choice.compiled
    assert choice.line.startswith("compile: off, 4,400 steps of 7.0 ms are too few: compiling takes about 60 s (an est")
    times.note("a", 12.0)
    times.note("a", 4.0)
    choice = auto.choose(4_400, 0.007, ["a"], times, graphed=False)
    assert choice.compiled
    assert choice.line.startswith(
        "compile: on, 4,400 steps of 7.0 ms are enough: compiling takes about 4 s (as measured before) and saves about "
        "10 s (steps 1.51 times as fast)"
    )
    assert not auto.choose(4_400, 0.007, ["a", "b"], times, graphed=False).compiled  # one of two phases is not known


@pytest.mark.parametrize(("seconds", "compiles"), [(1e-9, True), (1e9, False)])
def test_a_run_compiles_from_the_step_on_that_decides(
    seconds: float,
    compiles: bool,
    graphs: dict[str, int],
    tiny_shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Measured on the CPU as it would be on CUDA; results are the same but for rounding."""
    monkeypatch.setattr("food101_fast.train.start.chosen_at_once", lambda *_: None)
    monkeypatch.setattr("food101_fast.train.compiling._COMPILE_SECONDS", seconds)
    monkeypatch.setattr(AutoCompile, "steps_needed", 20)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    steps: list[bool] = []
    update: Callable[..., Any] = TrainStep.update

    def noted(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> Any:
        steps.append(self.compiled)
        return update(self, images, labels)

    monkeypatch.setattr(TrainStep, "update", noted)
    rows = train(tiny_shards, tmp_path / "run", RECIPE, device="cpu", hooks=SMALL).metrics
    assert steps == [False] * 20 + [compiles] * 22
    assert graphs == ({"training": 1, "validation": 1} if compiles else {"training": 0, "validation": 0})
    assert [row.timing.compile_seconds > 0 for row in rows] == [False, compiles, False]
    assert f"compile: {'on' if compiles else 'off'}, 22 steps of" in "".join(capfd.readouterr())
    [_, known] = CompileTimes(tmp_path).estimate(graph_name(RECIPE, Phase(32, 0), CPU, 1))
    assert known == compiles


def test_a_run_of_few_steps_is_not_measured(
    graphs: dict[str, int],
    tiny_shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("food101_fast.train.start.chosen_at_once", lambda *_: None)
    train(tiny_shards, tmp_path / "run", dataclasses.replace(RECIPE, epochs=2), device="cpu", hooks=SMALL)
    assert "compile: off, 28 steps are too few" in "".join(capfd.readouterr())
    assert graphs == {"training": 0, "validation": 0}
