"""A profile's files open and show the ten steps."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from PIL import Image

from food101_fast.bench.profile import Event, _beginning, _gap_share

Command = Callable[..., tuple[int, str, str]]
FLAGS = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the profiler: memory that was allocated before it
def test_the_files_show_ten_steps(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "profile"
    code, out, _ = command("bench", "train", "--shards", str(tiny_path), "--profile", str(folder), *FLAGS)
    assert code == 0
    names = ("trace.json.gz", "operators.txt", "timeline.png", "profile.json")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all(str(folder / name) in out for name in names)
    events = orjson.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    steps = [event for event in events if str(event.get("name", "")).startswith("step ") and event.get("ph") == "X"]
    assert sorted({event["name"] for event in steps}) == [f"step {number}" for number in range(10)]
    with Image.open(folder / "timeline.png") as image:
        assert min(image.size) > 300
    result = orjson.loads((folder / "profile.json").read_bytes())
    lanes = result["lanes"]
    assert set(lanes) == {"loader's threads", "waiting for the loader", "transforms", "forward + backward", "optimizer"}
    on_the_main_thread = sum(seconds for lane, seconds in lanes.items() if lane != "loader's threads")
    assert 0.8 * result["seconds"] < on_the_main_thread <= result["seconds"]
    assert result["kernel_gap_share"] is None
    assert 10 < len(result["memory"]) <= 1001
    table = (folder / "operators.txt").read_text()
    assert 5 <= table.count("aten::") <= 10


def test_time_begins_with_the_host_not_with_the_device_that_lags_behind() -> None:
    step = {"ph": "X", "name": "step 0", "dur": 100.0, "tid": 7}
    on_device = step | {"cat": "gpu_user_annotation", "ts": 5_000_400.0, "pid": 0, "args": {"External id": 1}}
    on_host = step | {"cat": "user_annotation", "ts": 5_000_000.0, "pid": 321, "args": {"External id": 1}}
    others: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "ts": 0.0, "pid": 321, "tid": 0, "args": {"name": "python"}},
        {"ph": "f", "id": 1, "pid": 0, "tid": 7, "ts": 5_000_410.0, "cat": "ac2g", "name": "ac2g", "bp": "e"},
        step | {"cat": "user_annotation", "name": "step 1", "ts": 4_000_000.0, "pid": 321},
        {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 321, "tid": 7, "ts": 1.0},
    ]
    for events in ([on_device, *others, on_host], [*others, on_host, on_device]):
        assert _beginning(msgspec.convert(events, list[Event])) == 5.0


def test_gaps_between_kernels_count_overlapping_ones_once() -> None:
    assert _gap_share([]) is None
    assert _gap_share([(0.0, 1.0), (0.5, 2.0), (3.0, 4.0)]) == pytest.approx(0.25)
    assert _gap_share([(0.0, 4.0), (1.0, 2.0)]) == 0.0


def test_a_folder_that_cannot_be_made_is_one_sentence(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "profile")
    code, _, err = command("bench", "train", "--shards", str(tiny_path), "--profile", folder, *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "could not be written" in err
