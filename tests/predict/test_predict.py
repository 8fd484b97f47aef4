"""Predictions are those of evaluation; what is no image is named, and a run needs nothing but its folder."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from PIL import Image

from food101_fast.images import RejectedError
from food101_fast.predict import Classifier
from food101_fast.predict.given import cleaned
from food101_fast.prepare.__main__ import main as prepare_command
from food101_fast.runs.run import new_run
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe
from tests.conftest import encoded, picture, write_folder


def test_predictions_are_those_of_evaluation(moved_run: Path, tiny_folder: Path, tiny_shards: ShardSet) -> None:
    """From the original files, through decoding and fitting."""
    classifier = Classifier.load(moved_run, device="cpu")
    assert classifier.classes == tiny_shards.classes
    with np.load(moved_run / "predictions.npz") as arrays:
        expected = torch.from_numpy(arrays["logits"]).softmax(dim=1)
    split = tiny_shards.split("test")
    stored = {split[number].tobytes(): number for number in range(len(split))}
    compared = 0
    for path in tiny_folder.rglob("*.jpg"):
        number = stored.get(classifier.pixels(path).tobytes())
        if number is not None:
            got = classifier(path)
            assert got.shape == (1, 3)
            torch.testing.assert_close(got[0], expected[number], rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == len(split)


def test_what_needs_the_shards_says_so(moved_run: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command("evaluate", "--run", str(moved_run), "--device", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no shards folder /gone/shards" in err
    assert err.endswith("give their folder or URL to --shards\n")


def test_every_kind_of_picture_gives_the_same(moved_run: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(moved_run, device="cpu")
    image = picture(1, 60, 50)
    path = tmp_path / "a.png"
    image.save(path)
    together = classifier([path, path.read_bytes(), image, str(path)])
    assert together.shape == (4, 3)
    assert torch.equal(classifier(str(path))[0], classifier(path)[0])
    assert torch.equal(together[0], together[1])
    assert torch.equal(together[0], together[2])
    torch.testing.assert_close(together.sum(dim=1), torch.ones(4))
    with pytest.raises(RejectedError, match="not-an-image"):
        classifier(b"noise")


def test_pictures_are_decoded_as_for_the_shards(tmp_path: Path) -> None:
    """`prepare --decode full` is in the manifest and in the run, and predict's pixels are those of the shards."""
    photos = write_folder(tmp_path / "photos", {"a": 10, "b": 10}, width=150, height=130)
    rows = {}
    for decode in ("full", "scaled"):
        shards = tmp_path / f"shards-{decode}"
        arguments = ["--source", f"folder:{photos}", "--size", "32", "--workers", "1", "--out", str(shards)]
        prepare_command([*arguments, "--decode", decode])
        run = new_run(tmp_path / "run", Recipe(image_size=32), ShardSet.open(shards), torch.device("cpu"), ranks=1)
        split = ShardSet.open(shards).split("train")
        rows[decode] = [split[number].tobytes() for number in range(len(split))]
        files = [photos / f"{split.key(number)}.jpg" for number in range(len(split))]
        assert [cleaned(path, run.rules).pixels.tobytes() for path in files] == rows[decode]
    assert rows["full"] != rows["scaled"]


def test_equal_probabilities_are_ordered_by_class(moved_run: Path) -> None:
    classifier = Classifier.load(moved_run, device="cpu")
    top = classifier.top(torch.tensor([[0.25, 0.5, 0.25]]), 5)
    names = classifier.classes
    assert top == [[(names[1], 0.5), (names[0], 0.25), (names[2], 0.25)]]


def test_the_command_names_bad_files_and_goes_on(
    moved_run: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encoded(picture(1, 60, 50)))
    (folder / "below" / "b.jpg").write_bytes(encoded(picture(2, 60, 50)))
    (folder / "text.txt").write_text("no picture")
    (folder / ".hidden").write_text("no picture")
    code, out, err = command("predict", "--run", str(moved_run), "--device", "cpu", str(folder), "missing.jpg")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == [str(folder / "a.jpg"), str(folder / "below" / "b.jpg")]
    assert f"{folder / 'text.txt'}: not-an-image" in err
    assert "missing.jpg: can't be read" in err
    assert err.splitlines()[-1] == "2 of 4 could not be predicted"
    assert ".hidden" not in err


def test_json_lines_hold_the_most_probable_classes(
    moved_run: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(1, 60, 50), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    arguments = ("predict", "--run", str(moved_run), "--device", "cpu", "--json", "--top-k", "2")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, _ = command(*arguments, f"file://{tmp_path}/a.png", "-")
    assert code == 0
    lines = [orjson.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == [f"file://{tmp_path}/a.png", "-"]
    assert lines[0]["predictions"] == lines[1]["predictions"]
    shares = [entry["probability"] for entry in lines[0]["predictions"]]
    assert len(shares) == 2
    assert shares == sorted(shares, reverse=True)
    top = Classifier.load(moved_run, device="cpu").top(Classifier.load(moved_run, device="cpu")(data), 2)[0]
    assert [entry["class"] for entry in lines[0]["predictions"]] == [name for name, _ in top]
    assert shares == pytest.approx([probability for _, probability in top])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "predict needs images"),
        (["--top-k", "0", "a.jpg"], "--top-k 0 should be at least 1"),
        (
            ["--checkpoint", "epoch-0009", "a.jpg"],
            "has no checkpoint 'epoch-0009', only best, last; choose one of these",
        ),
        (["--checkpoint", "../checkpoints/best", "a.jpg"], "has no checkpoint '../checkpoints/best', only best, last"),
    ],
)
def test_a_mistake_is_one_sentence(
    moved_run: Path, command: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    code, _, err = command("predict", "--run", str(moved_run), "--device", "cpu", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_odd_images_have_a_prediction_or_a_reason(
    moved_run: Path, photographs: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = photographs / "odd-images"
    code, out, err = command("predict", "--run", str(moved_run), "--device", "cpu", "--json", str(folder))
    predicted = {orjson.loads(line)["image"] for line in out.splitlines()}
    refused = {line.split(": ")[0] for line in err.splitlines()[:-1]}
    files = {str(path) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert code == 1
    assert predicted | refused == files
    assert not predicted & refused
    assert len(predicted) > 10
    assert len(refused) > 5


def test_an_image_of_pillow_is_taken_as_it_is(moved_run: Path) -> None:
    classifier = Classifier.load(moved_run, device="cpu")
    grey = Image.new("L", (40, 40), 77)
    assert (classifier.pixels(grey) == 77).all()


def test_a_service_that_raises_its_own_errors_is_named(
    moved_run: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As botocore does without credentials; the rest goes on, and an empty folder is no success."""

    class NoCredentialsError(Exception):
        pass

    def refuse(*_: object) -> None:
        raise NoCredentialsError("no credentials")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    (tmp_path / "a.jpg").write_bytes(encoded(picture(1, 60, 50)))
    (tmp_path / "empty").mkdir()
    images = ("s3://bucket/x.jpg", str(tmp_path / "a.jpg"), str(tmp_path / "empty"))
    code, out, err = command("predict", "--run", str(moved_run), "--device", "cpu", *images)
    assert code == 1
    assert out.startswith(str(tmp_path / "a.jpg"))
    assert err.splitlines() == [
        "s3://bucket/x.jpg: can't be read: no credentials",
        f"{tmp_path / 'empty'}: can't be read: Is a directory",
        "2 of 3 could not be predicted",
    ]
