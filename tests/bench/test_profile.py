"""A profile's files open and show the ten steps."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from PIL import Image

from food101_fast.bench.profile import _gap_share

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
    assert set(lanes) == {"loader's threads", "waiting for the loader", "transforms", "forward + backward", "optimiser"}
    on_the_main_thread = sum(seconds for lane, seconds in lanes.items() if lane != "loader's threads")
    assert 0.8 * result["seconds"] < on_the_main_thread <= result["seconds"]
    assert result["kernel_gap_share"] is None
    assert 10 < len(result["memory"]) <= 1001
    table = (folder / "operators.txt").read_text()
    assert 5 <= table.count("aten::") <= 10


def test_gaps_between_kernels_count_overlapping_ones_once() -> None:
    assert _gap_share([]) is None
    assert _gap_share([(0.0, 1.0), (0.5, 2.0), (3.0, 4.0)]) == pytest.approx(0.25)
    assert _gap_share([(0.0, 4.0), (1.0, 2.0)]) == 0.0


def test_a_folder_that_cannot_be_made_is_one_sentence(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "profile")
    code, _, err = command("bench", "train", "--shards", str(tiny_path), "--profile", folder, *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot write into" in err
