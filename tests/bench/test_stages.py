"""The bench measures every stage and says on what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch

FLAGS = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--seconds", "0.01"]


def test_the_json_holds_stages_machine_and_versions(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "bench.json"
    code, out, _ = command(
        "bench", "--shards", str(tiny_path), "--json", str(path), "--device", "cpu", "--repetitions", "3", *FLAGS
    )
    assert code == 0
    result = orjson.loads(path.read_bytes())
    assert list(result["stages"]) == [
        "loader",
        "loader + transforms",
        "model, fixed batch",
        "training step from shards",
    ]
    for name, stage in result["stages"].items():
        rates = sorted(stage["repetitions"])
        assert len(rates) == 3
        assert stage["images_per_second"] == rates[1] > 0
        assert name in out
    assert result["machine"]["device"] == "cpu"
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["torch"] == torch.__version__
    assert result["settings"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "nowhere"], "there is no shards folder"),
        (["--json", "nowhere/bench.json"], "for --json"),
        (["--seconds", "0"], "--seconds 0.0 should be above 0"),
    ],
)
def test_a_mistake_is_one_sentence(
    tiny_path: Path, command: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    shards = [] if "--shards" in arguments else ["--shards", str(tiny_path)]
    code, _, err = command("bench", *shards, "--device", "cpu", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
