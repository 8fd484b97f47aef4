"""What a run exports gives the run's own probabilities, wherever the run lies; a failure leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
import pytest
import simplejpeg
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_model
from torch import nn
from torchvision.models import get_model

from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate
from food101_fast.export import export, job
from food101_fast.export.card import Parity, model_card
from food101_fast.models import Backbone, build_model
from food101_fast.predict import Classifier
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train

Probabilities = Callable[[np.ndarray], np.ndarray]


def loaded(folder: Path) -> dict[str, Probabilities]:
    """Functions from uint8 (N, H, W, 3) to probabilities, of the files of an export, as its card says."""
    program = torch.export.load(folder / "model.pt2").module()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return {
        "program": lambda images: program(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy(),
        "onnx": lambda images: session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0],
    }


def test_a_moved_run_is_exported_by_the_command(moved_run: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("export", "--run", str(moved_run), "--onnx")
    assert code == 0, err
    folder = moved_run / "export"
    names = ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [line.split()[0] for line in out.splitlines()] == [str(folder / name) for name in names]
    assert out.count("probabilities within") == 2
    assert folder.stat().st_mode & 0o777 == 0o755
    config = orjson.loads((folder / "config.json").read_bytes())
    assert config["id2label"] == {"0": "apple pie", "1": "ramen", "2": "tacos"}
    assert config["preprocessing"]["center_crop"] == 32
    classifier = Classifier.load(moved_run, device="cpu")
    predictors = loaded(folder)
    for size in ((32, 32), (100, 70), (31, 200)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        for predict in predictors.values():
            np.testing.assert_allclose(predict(image[None]), classifier(Image.fromarray(image)).numpy(), atol=1e-6)


def test_the_card_says_what_the_model_is_and_how_good(moved_run: Path) -> None:
    run = read_run(moved_run)
    model = build_model(run.recipe.model, "none", len(run.classes))

    def card(checkpoint: str = "best", differences: dict[str, float] | None = None) -> ModelCard:
        parity = Parity(images=15, sizes=5, differences={"model.pt2": 1e-7} | (differences or {}))
        return ModelCard(model_card(moved_run, run, model, checkpoint, parity))

    metrics = orjson.loads((moved_run / "test_metrics.json").read_bytes())
    top1 = f"{metrics['top1']:.4f} (95 %"
    evaluated = card()
    metadata = str(evaluated).split("---")[1]
    assert "pipeline_tag: image-classification\n" in metadata
    assert f"value: {round(metrics['top1'], 4)}\n" in metadata
    for part in ("test split", top1, "58 images for train", "License", "learning_rate", "Limits"):
        assert part in evaluated.text
    assert "onnx" not in evaluated.text
    assert "`model.onnx`" in card(differences={"model.onnx": 1e-7}).text
    # Results that belong to other weights are left out.
    assert "These weights were not evaluated" in card("last").text
    (moved_run / "test_metrics.json").write_bytes(orjson.dumps(metrics | {"weights": "0" * 16}))
    assert top1 not in card().text
    assert "| teacher |" not in card().text
    run = replace(run, recipe=replace(run.recipe, teacher=("/home/me/large",)))
    assert "| teacher | large |" in card().text
    assert "On the validation split" in card().text


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v2", "squeezenet1_1", "googlenet", "vit_b_32"])
def test_weights_load_as_the_card_says(name: str, tmp_path: Path) -> None:
    from food101_fast.runs.checkpoint import packed

    ours = build_model(name, "none", 5)
    (tmp_path / "model.safetensors").write_bytes(packed(ours.state_dict()))
    more = {"aux_logits": False, "init_weights": False} if hasattr(ours, "aux_logits") else {}
    model = get_model(name, weights=None, num_classes=5, **more)
    load_model(model, tmp_path / "model.safetensors")
    for key, value in ours.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_mistakes_are_one_sentence(
    moved_run: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (moved_run / "there").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for arguments, message in (
        (["--out", str(moved_run / "there")], "already exists; remove it, or give another --out"),
        (["--out", str(moved_run / "recipe.json" / "out")], "could not be written"),
        (["--checkpoint", "epoch-0009"], "has no checkpoint 'epoch-0009'"),
        (["--onnx"], "--onnx needs the extra: pip install 'food101-fast[onnx]'"),
    ):
        code, _, err = command("export", "--run", str(moved_run), *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert not (moved_run / "export").exists()


def test_other_probabilities_are_not_exported(moved_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_load_program", lambda path: lambda images: torch.full((len(images), 3), 1 / 3))
    before = sorted(moved_run.iterdir())
    with pytest.raises(UserError, match=r"model.pt2 returns probabilities that differ from the run's by \d"):
        export(moved_run)
    assert sorted(moved_run.iterdir()) == before


def fixed_model(name: str | Backbone, weights: str, classes: int) -> nn.Module:
    """Random logits of 80 x 80 pixels, in which each pixel has its share.

    A small change of many pixels then changes the probabilities, however a network happened to train.
    """
    linear = nn.Linear(3 * 80 * 80, classes)
    spread = 4 / linear.in_features**0.5
    linear.weight.data.normal_(std=spread, generator=torch.Generator().manual_seed(0))
    linear.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), linear)


def test_real_photographs_of_any_size_get_our_probabilities(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded as a whole and as predict decodes them; and stored ones as evaluation saw them."""
    folder = photographs / "food101-10-classes"
    settings = PrepareSettings(
        source=f"folder:{folder}", out=tmp_path / "shards", size=96, workers=1, duplicates="keep", limit=400
    )
    prepare(settings)
    shards, run = ShardSet.open(tmp_path / "shards"), tmp_path / "run"
    monkeypatch.setattr("food101_fast.runs.run.build_model", fixed_model)
    recipe = Recipe(weights="none", image_size=80, epochs=1, learning_rate=1e-9)
    train(shards, run, recipe, device="cpu", hooks=Hooks(build_model=fixed_model))
    evaluate(run, device="cpu")
    out = export(run, onnx=True).folder
    classifier = Classifier.load(run, device="cpu")
    predictors = loaded(out)
    files = sorted(folder.rglob("*.jpg"))[::5]
    assert len(files) == 200
    differences = dict.fromkeys(predictors, 0.0)
    between_decodings, sizes = 0.0, set()
    for path in files:
        data = path.read_bytes()
        whole = np.asarray(Image.open(path).convert("RGB"))
        reduced = simplejpeg.decode_jpeg(data, "RGB", min_height=96, min_width=96)
        sizes |= {whole.shape, reduced.shape}
        of_whole, of_file = classifier(Image.fromarray(whole)), classifier(data)
        between_decodings = max(between_decodings, float((of_whole - of_file).abs().max()))
        for pixels, expected in ((whole, of_whole), (reduced, of_file)):
            for name, predict in predictors.items():
                differences[name] = max(differences[name], float(abs(predict(pixels[None]) - expected.numpy()).max()))
    print(differences, "and between the decodings", between_decodings)
    assert max(differences.values()) <= 1e-4
    assert between_decodings > 1e-2  # so the bound tells resizing of another kind apart
    assert len(sizes) > 20
    with np.load(run / "predictions.npz") as arrays:
        evaluated = torch.from_numpy(arrays["logits"]).softmax(1).numpy()
    split = shards.split("test")
    stored = np.stack([split[index] for index in range(len(split))])
    for predict in predictors.values():
        np.testing.assert_allclose(predict(stored), evaluated, atol=1e-4)
