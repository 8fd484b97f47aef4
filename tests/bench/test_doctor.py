"""The doctor names the stage that was made slow on purpose, and says what to change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pytest
import simplejpeg
import torch
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from food101_fast.bench import diagnose
from food101_fast.prepare import PrepareSettings, prepare
from tests.conftest import encoded, write_folder

Command = Callable[..., tuple[int, str, str]]
QUICK = ["--device", "cpu", "--seconds", "0.02", "--repetitions", "5", "--batch-size", "16"]


class LimitedFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A file system behind a thin line."""

    protocol = "limited"
    bytes_per_second = 2e6

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        read = file.read

        def slowly(size: int = -1) -> bytes:
            data: bytes = read(size)
            time.sleep(len(data) / self.bytes_per_second)
            return data

        file.read = slowly
        return file


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Beside other programs torch's threads wait for each other so long that this would be what bounds every case."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images of 256 px, as JPEG and as raw shards: noise, which takes JPEG long."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(40):
            noise = Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8))
            (folder / "images" / label / f"{number}.jpg").write_bytes(encoded(noise, quality=95))
    made = {}
    for encoding in ("raw", "jpeg"):
        made[encoding] = folder / encoding
        prepare(
            PrepareSettings(
                source=f"folder:{folder / 'images'}", out=made[encoding], size=256, encoding=encoding, workers=1
            )
        )
    return made


@pytest.fixture
def verdict(command: Command, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the doctor and reads its JSON."""

    def run(shards: object, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "bench.json"
        code, out, err = command("bench", "--shards", str(shards), "--json", str(path), *QUICK, *arguments)
        assert code == 0, err
        result: dict[str, Any] = orjson.loads(path.read_bytes())
        assert result["verdict"]["sentence"] in out
        return result["verdict"]

    return run


@pytest.fixture
def slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that does everything four times: how its speed compares with a crop's depends on the processor."""
    decode = simplejpeg.decode_jpeg

    def often(*arguments: Any, **options: Any) -> Any:
        for _ in range(3):
            decode(*arguments, **options)
        return decode(*arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", often)


@pytest.mark.usefixtures("tiny_model", "slow_decoder")
def test_decoding_with_one_thread(large: dict[str, Path], verdict: Callable[..., dict[str, Any]]) -> None:
    found = verdict(large["jpeg"], "--image-size", "32", "--threads", "1", "--residence", "stream")
    assert found["stage"] == "decode"
    assert found["headspace"] > 1.3
    assert found["predicted"] <= found["headspace"] + 1e-9


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    fsspec.register_implementation("limited", LimitedFileSystem, clobber=True)
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOOD101_FAST_CACHE_GB", "0.0003")  # less than the data set: it is downloaded in each epoch
    yield
    LimitedFileSystem.clear_instance_cache()


@pytest.mark.usefixtures("tiny_model", "limited")
def test_a_slow_file_system(tmp_path: Path, verdict: Callable[..., dict[str, Any]]) -> None:
    write_folder(tmp_path / "images", {"a": 100, "b": 100})
    source = f"folder:{tmp_path / 'images'}"
    prepare(PrepareSettings(source=source, out=tmp_path / "shards", size=32, samples_per_shard=16, workers=1))
    place = f"limited://{tmp_path / 'shards'}"
    found = verdict(place, "--image-size", "32", "--window", "16", "--residence", "stream")
    assert found["stage"] == "read"
    assert found["headspace"] > 1.3


@pytest.mark.usefixtures("tiny_model")
def test_heavy_transforms(large: dict[str, Path], verdict: Callable[..., dict[str, Any]]) -> None:
    found = verdict(large["raw"], "--image-size", "128", "--preset", "strong")
    assert found["stage"] == "transforms"
    assert found["setting"].startswith("--preset baseline")


def test_a_heavy_model(tiny_path: Path, verdict: Callable[..., dict[str, Any]]) -> None:
    found = verdict(tiny_path, "--model", "resnet18", "--image-size", "64", "--batch-size", "8")
    assert found["stage"] == "model"
    assert found["setting"].startswith("--image-size 32")
    assert 1 < found["predicted"] < 4


@pytest.mark.usefixtures("tiny_model")
def test_a_tiny_model(large: dict[str, Path], verdict: Callable[..., dict[str, Any]]) -> None:
    found = verdict(large["raw"], "--image-size", "128")
    assert found["stage"] == "transforms"


def made_up(free: dict[str, float], loading: dict[str, Any] | None = None, **rates: float) -> dict[str, Any]:
    """A result with these gains and rates."""
    defaults = {"loader": 1000.0, "step, fixed batch": 900.0, "step from shards": 500.0, "gather": 2000.0}
    defaults |= {"decode": 600.0, "checksum": 2000.0, "read": 5000.0}
    amounts = {"read": 1000.0}
    return {
        "free": free,
        "loading_costs": free["loading"] > 1.2,
        "cold_read": {"bytes_per_second": 4e5},
        "loading": {
            "encoding": "raw",
            "stored_size": 192,
            "place": "local",
            "bytes": 10,
            "decoded_bytes": 10,
            "free_memory": 1000,
            "threads": 1,
            "cores": 4,
            "verify": "first-epoch",
            **(loading or {}),
        },
        "settings": {"recipe": {"preset": "baseline", "image_size": 160}},
        "provenance": {"machine": {"device": "cpu"}},
        "stages": {
            name: {"images_per_second": rate, "amount_per_image": amounts.get(name)}
            for name, rate in (defaults | rates).items()
        },
    }


LOADING_BOUND = {"loading": 1.8, "transforms": 1.0, "model": 1.1}


@pytest.mark.parametrize(
    ("loading", "stage", "setting", "predicted"),
    [
        ({"encoding": "jpeg"}, "decode", "--threads 4", 1.8),
        ({"encoding": "jpeg", "threads": 4}, "decode", "--residence host", 1.8),
        ({"encoding": "jpeg", "threads": 4, "decoded_bytes": 900}, "decode", "prepare --encoding raw", 1.8),
        ({"threads": 4}, "gather", None, None),
        ({"verify": "always", "encoding": "jpeg", "threads": 4}, "decode", "--residence host", 1.8),
        ({"place": "remote", "threads": 4}, "read", "--residence host", 1.8),
        ({"bytes": 2000, "decoded_bytes": 900}, "read", "a faster local disk for the shards", 1.8),
    ],
)
def test_what_to_change_about_loading(
    loading: dict[str, Any], stage: str, setting: str | None, predicted: float | None
) -> None:
    found = diagnose(made_up(LOADING_BOUND, loading, **({"read": 300.0} if stage == "read" else {})))
    assert (found["kind"], found["stage"], found["headspace"]) == ("loading", stage, 1.8)
    assert found["predicted"] == predicted
    assert (found["setting"] or "").startswith(setting or "")
    assert (found["setting"] is None) == (setting is None)


def test_checksums_that_are_compared_always() -> None:
    found = diagnose(made_up(LOADING_BOUND, {"verify": "always", "threads": 4}, checksum=300.0))
    assert (found["stage"], found["setting"]) == ("checksum", "--verify first-epoch")


def test_twice_the_threads_are_twice_as_fast_until_the_rest_is_slower() -> None:
    slow = made_up({"loading": 9.0, "transforms": 1.0, "model": 1.0}, {"encoding": "jpeg", "cores": 2}, loader=510.0)
    assert diagnose(slow)["predicted"] == pytest.approx(2.04)


def test_transforms_and_models_have_advice_of_their_own() -> None:
    gains = {"loading": 1.0, "transforms": 2.0, "model": 1.5}
    found = diagnose(made_up(gains, {"stored_size": 256}))
    assert found["setting"] == "prepare --size 183"
    assert 1 < found["predicted"] < 2
    assert diagnose(made_up(gains, {"stored_size": 160}))["setting"] == "a GPU"
    found = diagnose(made_up(gains | {"model": 4.0}))
    assert found["setting"].startswith("--image-size 128")
    assert found["predicted"] == pytest.approx(1 / (1 - 0.75 * (1 - 0.64)))
    assert found["sentence"] == (
        "Bottleneck: model (500 images/s; 4.0x faster without it). Try `--image-size 128` (~1.4x, may cost accuracy). "
        "Loading costs nothing measurable: with a batch already in memory a step does 900 images/s."
    )
    assert found["sentence"].startswith(diagnose(made_up(gains | {"model": 4.0}), brief=True)["sentence"] + " Loading")


def test_loading_that_costs_something_is_said() -> None:
    found = diagnose(made_up({"loading": 1.5, "transforms": 1.0, "model": 2.0}))
    assert "Loading costs a factor of 1.50" in found["sentence"]


def test_a_gain_that_may_be_smaller_is_said() -> None:
    result = made_up({"loading": 1.0, "transforms": 3.0, "model": 1.0}, {"stored_size": 160})
    assert "Try a GPU (at most 3.0x)." in diagnose(result)["sentence"]
    result["settings"]["recipe"]["preset"] = "strong"
    assert "Try `--preset baseline` (at most 3.0x, may cost accuracy)." in diagnose(result)["sentence"]


def test_where_nothing_helps_the_sentence_says_so() -> None:
    found = diagnose(made_up(LOADING_BOUND, {"threads": 4}))
    assert found["sentence"] == (
        "Bottleneck: gathering rows (500 images/s; 1.8x faster without it). No setting would help; a faster machine "
        "would."
    )
