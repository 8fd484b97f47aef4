"""Small data sets made on the spot, and the real photographs where FOOD101_FAST_DATA says they are."""

from __future__ import annotations

import os

# Read when torch is loaded: beside other programs the tests would otherwise take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# So that --amp auto is float32 on every processor; tests of bf16 ask for it.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
# Processes of pytest-xdist share the cores.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    )

import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import settings
from PIL import Image

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet

# By default an example may take 200 ms, which a busy machine exceeds now and then.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


# Folders with the longest files of tests, the longest first: a process that gets one of them last would keep the other
# processes waiting. `make test` keeps this order (--no-loadscope-reorder).
LONGEST = ("train", "export", "runs", "report", "prepare", "faults", "evaluate", "bench", "troubles", "transforms")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that take longest; skip those that need a CUDA device where there is none."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth random picture: JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_folder(path: Path, counts: dict[str, int], *, width: int = 48, height: int = 40) -> Path:
    """Class folders with `counts` JPEGs each."""
    for label, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{i:03d}.jpg").write_bytes(encoded(picture(1000 * label + i, width, height), quality=95))
    return path


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """A context in which an HTTP server answers."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stored_labels(folder: Path, split: str) -> dict[str, int]:
    """Label of each sample of a split, by its key."""
    labels = {}
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".cls"):
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[member.name.removesuffix(".cls")] = int(content.read())
    return labels


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and empty folders included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"a folder"
        for path in sorted(folder.rglob("*"))
    }


def flip(path: Path, byte: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 30, 20 and 23 pictures, 48 x 40 pixels."""
    return write_folder(tmp_path_factory.mktemp("images") / "tiny", {"ramen": 30, "apple pie": 20, "tacos": 23})


@pytest.fixture(scope="session")
def tiny_path(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_shards`."""
    out = tmp_path_factory.mktemp("shards") / "tiny"
    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, samples_per_shard=9, workers=1))
    return out


@pytest.fixture
def tiny_shards(tiny_path: Path) -> ShardSet:
    """`tiny_folder` at 32 pixels: several shards per split, the last ones uneven."""
    return ShardSet.open(tiny_path)


@pytest.fixture(scope="session")
def tiny_run(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on `tiny_shards`, trained and evaluated; tests that write into it take a copy."""
    from food101_fast.evaluate import evaluate
    from food101_fast.train import Recipe, train

    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8)
    train(ShardSet.open(tiny_path), folder, recipe, device="cpu")
    evaluate(folder, device="cpu")
    return folder


@pytest.fixture
def moved_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_run` in another place, from where its shards can't be found."""
    moved = Path(shutil.copytree(tiny_run, tmp_path / "moved"))
    description = orjson.loads((moved / "recipe.json").read_bytes())
    (moved / "recipe.json").write_bytes(orjson.dumps(description | {"shards": "/gone/shards"}))
    return moved


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of real photographs; tests that need it skip without it."""
    if "FOOD101_FAST_DATA" not in os.environ:
        pytest.skip("needs real photographs: set FOOD101_FAST_DATA to their folder")
    return Path(os.environ["FOOD101_FAST_DATA"])


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process as `python -m` would: `command("prepare", "--size", "32")` -> (code, out, err)."""
    import importlib

    from food101_fast.cli import exit_with

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        main = importlib.import_module(f"food101_fast.{name}.__main__").main
        with pytest.raises(SystemExit) as exit_info:
            exit_with(main, arguments)
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err  # type: ignore[return-value]

    return run


@pytest.fixture(autouse=True)
def _same_numbers_everywhere() -> None:
    torch.manual_seed(0)
