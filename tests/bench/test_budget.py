"""A measurement is fitted into its time, and says what was left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from food101_fast.bench import budget, stages
from food101_fast.bench.budget import fitting_batch, needed_seconds, seconds_per_image
from food101_fast.runs.recipe import Recipe
from food101_fast.train.step import TrainStep

Command = Callable[..., tuple[int, str, str]]
FLAGS = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--device", "cpu", "--seconds", "0.01"]


@given(st.integers(1, 64), st.integers(1, 8), st.floats(1e-5, 10), st.floats(-100, 1000), st.integers(1, 10), st.data())
def test_a_batch_fits_or_is_the_smallest(
    pieces: int, accumulate: int, per_image: float, seconds: float, rounds: int, data: st.DataObject
) -> None:
    batch = pieces * accumulate
    found = fitting_batch(batch, accumulate, seconds_per_image=per_image, seconds=seconds, rounds=rounds)
    assert found % accumulate == 0
    assert min(batch, accumulate) <= found <= batch
    if found > max(4, accumulate):
        assert needed_seconds(found, per_image, rounds) <= seconds * (1 + 1e-9)
    # It is the largest, up to the rounding to a power of two and to whole pieces.
    larger = 2 * found + 2 * accumulate
    if larger < batch:
        assert needed_seconds(larger, per_image, rounds) > seconds
    slower = data.draw(st.floats(1, 100)) * per_image
    assert fitting_batch(batch, accumulate, seconds_per_image=slower, seconds=seconds, rounds=rounds) <= found


@pytest.mark.usefixtures("tiny_model")
def test_a_trial_takes_the_precision_of_the_recipe_and_no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Step(TrainStep):
        def update(self, images: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
            tried.append((self.precision.dtype, self.compiled, len(images)))
            return super().update(images, labels, weight=weight)

    monkeypatch.setattr(budget, "TrainStep", Step)
    recipe = Recipe(model="shufflenet_v2_x0_5", image_size=32, batch_size=96, accumulate=3, amp="bf16", compile="on")
    assert seconds_per_image(recipe, torch.device("cpu"), 3) > 0
    assert set(tried) == {(torch.bfloat16, False, 8)}


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to need 60 ms for an image: 3.6 s for a round of batch 8."""
    monkeypatch.setattr(stages, "seconds_per_image", lambda recipe, device, classes, teacher: 0.06)


@pytest.mark.usefixtures("tiny_model", "slow_steps")
def test_a_slow_cpu_measures_a_smaller_batch_and_says_so(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    arguments = ["--batch-size", "32", "--repetitions", "2", "--budget", "15", "--json", str(path), *FLAGS]
    code, out, err = command("bench", "--shards", str(tiny_path), *arguments)
    assert code == 0, err
    result = orjson.loads(path.read_bytes())
    assert result["settings"]["recipe"]["batch_size"] == 4
    (remark,) = result["remarks"]
    assert remark.startswith("measured with batch 4 instead of 32: a step of 32 images takes about 1.9 s here")
    assert remark in out
    larger = int(remark.rpartition("--budget ")[2].split()[0])
    arguments[arguments.index("15")] = str(larger)
    assert command("bench", "--shards", str(tiny_path), *arguments)[0] == 0
    result = orjson.loads(path.read_bytes())
    assert (result["settings"]["recipe"]["batch_size"], result["remarks"]) == (32, [])


@pytest.mark.usefixtures("tiny_model", "slow_steps")
@pytest.mark.parametrize(("name", "flags"), [("train", ["--sweep", "batch_size=8,16"]), ("loader", [])])
def test_a_batch_that_is_swept_or_only_loaded_is_left_alone(
    tiny_path: Path, tmp_path: Path, command: Command, name: str, flags: list[str]
) -> None:
    path = tmp_path / "bench.json"
    arguments = ["--batch-size", "16", "--repetitions", "1", "--budget", "20", "--json", str(path), *FLAGS, *flags]
    code, _, err = command("bench", name, "--shards", str(tiny_path), *arguments)
    assert code == 0, err
    found = orjson.loads(path.read_bytes())
    sizes = [one["settings"]["recipe"]["batch_size"] for one in (found if flags else [found])]
    assert sizes == ([8, 16] if flags else [16])
    if flags:
        assert "bench, batch_size 8: " in err


@pytest.mark.usefixtures("tiny_model")
def test_a_budget_that_is_over_at_once_gives_the_warm_up(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    arguments = ["--batch-size", "8", "--budget", "0.001", "--json", str(path), *FLAGS]
    code, out, err = command("bench", "--shards", str(tiny_path), *arguments)
    assert code == 0, err
    result = orjson.loads(path.read_bytes())
    assert {len(stage["repetitions"]) for stage in result["stages"].values()} == {1}
    assert result["settings"]["recipe"]["batch_size"] == 4
    assert "only the warm-up fit into --budget 0.001" in out
    assert result["verdict"]["sentence"] in out
