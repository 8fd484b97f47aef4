"""The examples run as they are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.docs.test_pages import ROOT, run

EXAMPLES = ROOT / "examples"
SMALL = "--shards shards/food101 --model resnet18 --image-size 64 --epochs 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    run(folder, "python -m food101_fast.prepare --source demo: --size 64 --limit 320 --out shards/food101")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_in_100_lines", "accelerate_loop", "lightning_loop"])
def test_a_loop_trains(name: str, folder: Path) -> None:
    assert "loss" in run(folder, f"{sys.executable} {EXAMPLES / name}.py {SMALL}")


@pytest.mark.slow
def test_webdataset_both_ways(folder: Path) -> None:
    printed = run(folder, f"{sys.executable} {EXAMPLES / 'webdataset_interop.py'} --folder interop")
    assert "tars of webdataset in our loader: (8, 3, 64, 64)" in printed
    assert "our shards in webdataset alone: (64, 64, 3)" in printed


@pytest.mark.slow
def test_an_export_is_served(folder: Path) -> None:
    from food101_fast.prepare.sources.demo import DemoSource

    (folder / "photo.jpg").write_bytes(DemoSource().read(305))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "alpha.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "gray16.png")
    run(folder, "python -m food101_fast.train --shards shards/food101 --run run --recipe demo --epochs 1")
    run(folder, "python -m food101_fast.export --run run --onnx")
    names = ["alpha.png", "gray16.png", "photo.jpg"]
    lines = run(folder, f"python -m food101_fast.predict --run run {' '.join(names)} --json --device cpu").splitlines()
    for name, line in zip(names, lines, strict=True):
        served = run(folder, f"{sys.executable} {EXAMPLES / 'serve_onnx.py'} run/export {name}").splitlines()
        predicted = json.loads(line)["predictions"]
        assert [one.split()[1] for one in served] == [one["class"] for one in predicted]
        assert float(served[0].split()[0]) == pytest.approx(predicted[0]["probability"], abs=1e-3)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "food101.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "food101.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = str(notebook.cells)
    assert "truncated" in printed  # the corrupt files of the demo source were named
    assert printed.count("image/png") >= 4
    streams = [one.text for cell in notebook.cells for one in cell.get("outputs", []) if one.output_type == "stream"]
    assert not any("%|" in text for text in streams), "bars are widgets"
    assert printed.count("application/vnd.jupyter.widget-view+json") >= 4
