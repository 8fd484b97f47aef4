"""The bench measures every stage and says on what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from PIL import Image

from food101_fast.bench import stages
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet

Command = Callable[..., tuple[int, str, str]]
FLAGS = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--seconds", "0.01"]
STAGES = [
    *("read", "gather", "checksum", "loader", "transforms", "forward", "forward + backward", "optimizer"),
    *("step, fixed batch", "step without transforms", "step without the model", "step from shards"),
]


def test_the_json_holds_stages_ceilings_and_provenance(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    code, out, err = command(
        "bench", "--shards", str(tiny_path), "--json", str(path), "--device", "cpu", "--repetitions", "3", *FLAGS
    )
    assert code == 0
    result = orjson.loads(path.read_bytes())
    assert list(result["stages"]) == STAGES
    for name, stage in result["stages"].items():
        rates = sorted(stage["repetitions"])
        assert len(rates) == 3
        assert stage["images_per_second"] == rates[1] > 0
        assert name in out
        if "ceiling" in stage:
            assert stage["share_of_ceiling"] > 0
            assert len(result["ceilings"][stage["ceiling"]]["repetitions"]) == 3
    assert set(result["free"]) == {"loading", "transforms", "model"}
    assert result["stages"]["forward + backward"]["amount_per_image"] > result["stages"]["forward"]["amount_per_image"]
    provenance = result["provenance"]
    assert provenance["machine"]["device"] == "cpu"
    assert provenance["machine"]["cores"] >= 1
    assert provenance["versions"]["torch"] == torch.__version__
    assert isinstance(provenance["busy"], bool)
    assert set(provenance["cpu_state"]) == {"mhz", "governor"}
    assert result["settings"]["recipe"]["batch_size"] == 8
    assert result["loading"]["threads"] == 1
    assert result["verdict"]["sentence"] in out
    assert result["precision"] == "float32"
    assert "batch 8, float32" in out
    assert result["remarks"] == []
    timing = result["timing"]
    assert 0 < timing["preparing"] + timing["warm_up"] < timing["all"]
    assert timing["repetition"] == 0.01
    assert ": first look: Bottleneck: " in err
    assert [f"round {number} of 3: step from shards" in err for number in range(5)] == [False, *[True] * 3, False]


@pytest.mark.parametrize(
    ("name", "measured"),
    [("loader", ["read", "gather", "checksum", "loader"]), ("transforms", ["transforms"]), ("train", STAGES[3:])],
)
def test_a_part_is_measured_alone(
    tiny_path: Path, tmp_path: Path, command: Command, name: str, measured: list[str]
) -> None:
    path = tmp_path / "bench.json"
    arguments = ["--shards", str(tiny_path), "--json", str(path), "--device", "cpu", "--repetitions", "1"]
    code, _, _ = command("bench", name, *arguments, *FLAGS)
    assert code == 0
    result = orjson.loads(path.read_bytes())
    assert sorted(result["stages"]) == sorted(measured)
    assert "verdict" not in result


def test_a_run_is_measured_with_its_recipe(tiny_run: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    quick = ["--seconds", "0.01", "--repetitions", "1", "--device", "cpu"]
    code, _, err = command("bench", "train", "--run", str(tiny_run), "--json", str(path), *quick, "--batch-size", "4")
    assert code == 0, err
    recipe = orjson.loads(path.read_bytes())["settings"]["recipe"]
    assert (recipe["model"], recipe["image_size"], recipe["batch_size"]) == ("shufflenet_v2_x0_5", 32, 4)


def test_a_sweep_is_a_table_and_a_plot(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    plot, path = tmp_path / "sweep.png", tmp_path / "sweep.json"
    arguments = ["--sweep", "batch_size=4,8,16", "--plot", str(plot), "--json", str(path), "--repetitions", "2"]
    code, out, _ = command("bench", "loader", "--shards", str(tiny_path), "--device", "cpu", *FLAGS, *arguments)
    assert code == 0
    assert [result["settings"]["recipe"]["batch_size"] for result in orjson.loads(path.read_bytes())] == [4, 8, 16]
    assert out.splitlines()[0].split() == ["batch", "size", "4", "8", "16"]
    with Image.open(plot) as image:
        assert min(image.size) > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "nowhere"], "there is no shards folder"),
        (["--json", "nowhere/bench.json"], "for --json"),
        (["--sweep", "batch_size=8", "--plot", "nowhere/sweep.png"], "for --plot"),
        (["--budget", "0"], "--budget 0.0 should be above 0"),
        (["--seconds", "0"], "--seconds 0.0 should be above 0"),
        (["--repetitions", "0"], "--repetitions 0 should be at least 1"),
        (["--json", "."], "name a file for --json"),
        (["--profile", "a", "--json", "a.json"], "leave --json out"),
        (["--sweep", "colour=1"], "--sweep colour=1 should be like batch_size=64,128"),
        (["--sweep", "threads=a"], "values of threads are whole numbers above 0"),
        (["--plot", "a.png"], "--plot needs --sweep"),
        (["--sweep", "threads=1", "--profile", "a"], "--profile and --sweep cannot be combined"),
        (["--run", "nowhere"], "nowhere has no run"),
    ],
)
def test_a_mistake_is_one_sentence(tiny_path: Path, command: Command, arguments: list[str], message: str) -> None:
    shards = [] if "--shards" in arguments else ["--shards", str(tiny_path)]
    code, _, err = command("bench", *shards, "--device", "cpu", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_there_must_be_something_to_measure(command: Command) -> None:
    code, _, err = command("bench", "--device", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert "bench needs --shards, or --run" in err


def test_images_are_in_memory_before_anything_is_measured(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    code, out, _ = command(
        "bench", "loader", "--shards", str(tiny_path), "--json", str(path), "--device", "cpu", "--repetitions", "3",
        "--residence", "host", *FLAGS,
    )  # fmt: skip
    assert code == 0
    (remark,) = orjson.loads(path.read_bytes())["remarks"]
    assert remark in out
    loaders = [ShardLoader(ShardSet.open(tiny_path), split="train", batch_size=8, residence="host") for _ in range(2)]
    assert remark == stages._fill(loaders[0], float("inf"))
    assert loaders[0].counters.images == 8 * len(loaders[0])
    assert "not all images" in str(stages._fill(loaders[1], 0.0))
    assert stages._fill(ShardLoader(ShardSet.open(tiny_path), split="train", batch_size=8), 0.0) is None
