"""torch.compile on machines without a C++ compiler, Python's headers or Triton.

Public reports: pytorch/pytorch#92745, fishaudio/fish-speech#618, apple/ml-cross-entropy#5, marieai/marie-ai#94: a slim
container ends a run, or fills the terminal, with hundreds of lines about `g++`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from food101_fast.errors import Notice, UserError
from food101_fast.train.compiled import Compiler
from food101_fast.train.step import TrainStep
from tests.train.test_step import SGD, batch, small_model

CPU = torch.device("cpu")
NO_COMPILER = "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"


class Doubled(nn.Module):
    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers * 2


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every compilation fails as without a compiler; the number of attempts."""
    real, attempts = torch.compile, [0]

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        attempts[0] += 1
        raise RuntimeError(NO_COMPILER + "\n" * 100)

    def compiled(module: nn.Module, *, fullgraph: bool, dynamic: bool, mode: str) -> Callable[..., Any]:
        return real(module, backend=backend, dynamic=dynamic, fullgraph=fullgraph)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", compiled)
    yield attempts
    torch.compiler.reset()


def test_a_step_goes_on_eagerly_with_one_warning(failing: list[int]) -> None:
    recipe = SGD
    torch.manual_seed(1)
    eager = TrainStep(recipe, small_model(), CPU, compiled=False)
    torch.manual_seed(1)
    step = TrainStep(recipe, small_model(), CPU, compiled=True)
    assert step.compiled
    assert step.compiles_preset
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(3):
            images, results = batch(), []
            for each in (step, eager):
                each.train_mode()
                each.prepare(number, 1.0)
                results.append(each(images, 0))
            torch.testing.assert_close(*results, rtol=0, atol=0)
        validated = step.compile(step.evaluated)
    (notice,) = [each for each in said if issubclass(each.category, Notice)]
    assert str(notice.message) == (
        "torch.compile failed (no C++ compiler was found), so nothing is compiled and steps may be slower; install one "
        "(`apt-get install g++`), or set CXX, or use --compile off"
    )
    assert failing == [1]
    assert validated is step.evaluated
    assert not step.compiled
    assert not step.compiles_preset
    step.compile_from_now_on()  # what a measurement would choose
    assert not step.compiled
    for parameter, expected in zip(step.model.parameters(), eager.model.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.usefixtures("failing")
def test_asked_for_it_is_one_sentence() -> None:
    step = TrainStep(replace(SGD, compile="on"), small_model(), CPU)
    step.train_mode()
    step.prepare(0, 1.0)
    with pytest.raises(
        UserError, match=r"^--compile on: torch.compile failed \(no C\+\+ compiler was found\)"
    ) as caught:
        step(batch(), 0)
    assert "\n" not in str(caught.value)


def test_other_ranks_do_not_repeat_the_warning(failing: list[int]) -> None:
    compiler = Compiler(required=False, warns=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert compiler(Doubled())(torch.ones(1)) == 2
    assert failing == [1]
    assert not compiler.works


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.CalledProcessError(1, ["gcc"], stderr="main.c:5: fatal error: Python.h: No such file"), "headers"),
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), r"no C\+\+ compiler"),
        (ImportError("/tmp/c.so: failed to map segment from shared object"), "its folder"),
        (subprocess.CalledProcessError(3, ["ptxas"]), "ptxas"),
    ],
)
def test_what_fails_when_a_kernel_starts_is_a_failed_compilation(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(torch, "compile", lambda module, **named: fails)
    with pytest.warns(Notice, match=reason):
        assert Compiler(required=False)(Doubled())(torch.ones(1)) == 2
    with pytest.raises(UserError, match=reason):
        Compiler(required=True)(Doubled())(torch.ones(1))
    with pytest.raises(UserError, match=f"backward pass .*{reason}"), Compiler(required=False).backward():
        fails()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("of the model"), KeyError(1)])
def test_errors_of_the_model_are_its_own(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(torch, "compile", lambda module, **named: fails)
    compiler = Compiler(required=False)
    with pytest.raises(type(error)):
        compiler(Doubled())(torch.ones(1))
    with pytest.raises(type(error)), compiler.backward():
        fails()
    assert compiler.works


def test_an_unsupported_python_is_a_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: object, **named: object) -> None:
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", unsupported)
    with pytest.warns(Notice, match="not supported on Python"):
        assert Compiler(required=False)(Doubled())(torch.ones(1)) == 2


@pytest.mark.slow
def test_a_command_on_a_path_without_compilers(tiny_path: Path, tmp_path: Path) -> None:
    flags = "--recipe demo --model shufflenet_v2_x0_5 --image-size 32 --batch-size 16 --epochs 1 --device cpu"
    program = [sys.executable, "-m", "food101_fast.train", "--shards", str(tiny_path), "--run", str(tmp_path / "run")]
    environment = os.environ | {
        "PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled"),
    }
    environment.pop("CXX", None)
    command = [*program, *flags.split(), "--compile", "on"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]
    assert re.fullmatch(r"error: --compile on: torch.compile failed \(no C\+\+ compiler was found\); .*", said[-1])
    assert len(said) == 1, done.stderr
