"""The bench on a CUDA device: the bus and the device's own copies are measured, and a trace has kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch

from tests.cuda_device import harmless_warnings, needs_cuda

pytestmark = [needs_cuda, *harmless_warnings]

Command = Callable[..., tuple[int, str, str]]
FLAGS = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--device", "cuda"]


def test_the_bus_and_the_device_are_measured(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "bench.json"
    short = ["--seconds", "0.01", "--repetitions", "3", "--compile", "off"]
    code, out, err = command("bench", "--shards", str(tiny_path), "--json", str(path), *short, *FLAGS)
    assert code == 0, err
    result = orjson.loads(path.read_bytes())
    assert set(result["ceilings"]) == {"memory copy", "matrix product", "host to device copy", "device copy"}
    assert result["stages"]["host to device"]["ceiling"] == "host to device copy"
    assert result["stages"]["transforms"]["ceiling"] == "device copy"
    assert result["provenance"]["machine"]["device"] == torch.cuda.get_device_name()
    assert result["verdict"]["sentence"] in out


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the profiler: memory that was allocated before it
def test_a_profile_shows_kernels_and_what_was_lost_between_them(
    tiny_path: Path, tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "profile"
    code, out, err = command("bench", "train", "--shards", str(tiny_path), "--profile", str(folder), *FLAGS)
    assert code == 0, err
    result = orjson.loads((folder / "profile.json").read_bytes())
    assert result["lanes"]["kernels on the device"] > 0
    assert 0 <= result["kernel_gap_share"] < 1
    assert "of the time no kernel ran" in out
