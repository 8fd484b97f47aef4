"""Backbones of timm and torchvision by name: what they expect, their sizes, drop-path, and what a run keeps of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import orjson
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.ops import StochasticDepth

from food101_fast.errors import UserError
from food101_fast.export import export
from food101_fast.loader import Batch
from food101_fast.models import Backbone, build_model, check_sizes, head_of, inputs_of
from food101_fast.predict import Classifier
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train.step import TrainStep
from food101_fast.transforms import InputSpec
from food101_fast.transforms.normalize import IMAGENET
from tests.fake_cuda import CUDA, fake_cuda
from tests.test_fake_cuda import batch

timm = pytest.importorskip("timm", reason="needs the extra timm")

HALF = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", size=224)
TINY = Recipe(model="timm/test_vit", weights="none", image_size=32, epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("mobilenet_v2", "DEFAULT", IMAGENET),
        ("mobilenet_v2", "none", IMAGENET),
        ("efficientnet_b3", "DEFAULT", dataclasses.replace(IMAGENET, interpolation="bicubic", size=300)),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", dataclasses.replace(IMAGENET, interpolation="bicubic", size=384)),
        ("timm/tf_efficientnet_lite0", "some/file.safetensors", HALF),
        ("timm/vit_tiny_patch16_384", "none", dataclasses.replace(HALF, size=384)),
        ("timm/resnet50.tv_in1k", "DEFAULT", IMAGENET),
        ("timm/resnet50", "tv_in1k", IMAGENET),
    ],
)
def test_a_backbone_says_what_it_expects(name: str, weights: str, expected: InputSpec) -> None:
    assert inputs_of(name, weights) == expected


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm/resnet5", "none", "timm has no model 'resnet5'; did you mean timm/resnet50"),
        ("timm/resnet50.v9", "none", "timm's resnet50 has no weights 'v9'; choose from a1_in1k"),
        ("timm/resnet18", "v9", "timm/resnet18 has no weights 'v9'; choose from DEFAULT, a1_in1k"),
        ("timm/hub:user/name", "none", "should be timm/NAME, timm/hf-hub:USER/NAME"),
        ("timm/vgg_nothing_like_it_at_all", "none", "timm has no model"),
    ],
)
def test_what_timm_does_not_have_is_one_sentence(name: str, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_model(name, weights, 3)
    assert "\n" not in str(error.value)


def test_without_the_extra_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else real(name))
    with pytest.raises(UserError, match=r"needs the extra timm: pip install 'food101-fast\[timm\]'"):
        build_model("timm/resnet18", "none", 3)


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "timm/hf-hub:user/name"])
def test_no_network_is_one_sentence_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client would wait between its retries."""
    from huggingface_hub import constants

    def waiting(_: float) -> None:
        raise AssertionError("it waits")

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("time.sleep", waiting)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"could not be downloaded .*hub can't be reached.* --weights FILE") as error:
        build_model(name, "DEFAULT", 3)
    assert "\n" not in str(error.value)
    assert constants.HF_HUB_OFFLINE is False


def rates(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny"])
def test_drop_path_is_that_of_torchvisions_constructor(name: str) -> None:
    with torch.device("meta"):
        ours = build_model(Backbone(name=name, drop_path=0.3), "none", 3)
        theirs = torchvision.models.get_model(name, weights=None, stochastic_depth_prob=0.3)
        assert rates(ours) == pytest.approx(rates(theirs))
        assert rates(build_model(name, "none", 3)) == rates(torchvision.models.get_model(name, weights=None))


def test_drop_path_rises_to_its_rate_or_is_refused() -> None:
    with torch.device("meta"):
        assert rates(build_model(Backbone(name="maxvit_t", drop_path=0.3), "none", 3))[-1] == pytest.approx(0.3)
        model = build_model(Backbone(name="timm/test_vit", drop_path=0.3), "none", 3)
        dropped = [float(module.drop_prob) for module in model.modules() if hasattr(module, "drop_prob")]  # type: ignore[arg-type]
        assert max(dropped) == pytest.approx(0.3)
        for name in ("resnet18", "timm/vgg11"):
            with pytest.raises(UserError, match=f"{name} has no stochastic depth; leave --drop-path out"):
                build_model(Backbone(name=name, drop_path=0.3), "none", 3)


def test_a_vision_transformer_is_built_for_the_image_size() -> None:
    backbone = Backbone(name="timm/vit_tiny_patch16_224", image_size=64)
    with torch.device("meta"):
        model = build_model(backbone, "none", 3).eval()
        check_sizes(backbone, model, {64}, native=224)
        with pytest.raises(UserError, match=r"can't take images of 32 pixels .* its own size is 224") as error:
            check_sizes(backbone, model, {64, 32}, native=224)
    assert "no --start-size" in str(error.value)


def test_an_impossible_size_is_refused_with_the_nearest_that_work() -> None:
    backbone = Backbone(name="timm/test_maxvit", image_size=72)
    model = build_model(backbone, "none", 3)
    with pytest.raises(
        UserError, match=r"can't take images of 72 pixels .*own size is 160, and it also takes 64 or 96"
    ):
        check_sizes(backbone, model, {72}, native=160)


def pretrained_folder(folder: Path) -> Path:
    """A model as on the hub: test_vit for 5 classes, with a normalization of its own."""
    folder.mkdir()
    model = timm.create_model("test_vit", num_classes=5)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "input_size": [3, 160, 160]}
    rest = {"num_classes": 5, "fixed_input_size": True, "classifier": "head", "first_conv": "patch_embed.proj"}
    document = {"architecture": "test_vit", "model_args": {"class_token": True}, "pretrained_cfg": cfg | rest}
    (folder / "config.json").write_bytes(orjson.dumps(document))
    return folder


@pytest.mark.slow
def test_a_run_needs_neither_hub_nor_weights_again(
    tiny_shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pretrained_folder(tmp_path / "hub")
    recipe = dataclasses.replace(TINY, model=f"timm/local-dir:{source}", weights="DEFAULT")
    start = build_model(recipe.backbone, "DEFAULT", 3).state_dict()
    stored = safetensors.torch.load_file(source / "model.safetensors")
    assert torch.equal(start["blocks.0.attn.qkv.weight"], stored["blocks.0.attn.qkv.weight"])
    assert start["pos_embed"].shape == (1, 5, 64)  # resampled from 100 patches to 4
    train(tiny_shards, tmp_path / "run", recipe, device="cpu")
    assert "normalized with mean 0.1 0.2 0.3 and std 0.4 0.5 0.6" in capsys.readouterr().out
    for path in source.iterdir():
        path.unlink()
    run = read_run(tmp_path / "run")
    assert run.inputs == InputSpec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", size=160)
    assert run.architecture == 'timm/test_vit?{"class_token":true}'
    agreeing(tmp_path / "run")
    result = train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, epochs=2), device="cpu", resume=True)
    assert len(result.metrics) == 2
    assert read_run(tmp_path / "run").inputs == run.inputs


def agreeing(run: Path) -> None:
    """An exported program computes what the run does, and its files say how."""
    out = export(run).folder
    program = torch.export.load(out / "model.pt2").module()
    classifier = Classifier.load(run, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    with torch.inference_mode():
        got = program(torch.from_numpy(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(got, classifier(Image.fromarray(image)), atol=1e-6, rtol=0)
    preprocessing = orjson.loads((out / "config.json").read_bytes())["preprocessing"]
    inputs = read_run(run).inputs
    assert (tuple(preprocessing["mean"]), tuple(preprocessing["std"])) == (inputs.mean, inputs.std)
    assert preprocessing["interpolation"].startswith(inputs.interpolation)
    card = (out / "README.md").read_text()
    assert "library_name: timm\n" in card
    call = next(line for line in card.splitlines() if "create_model(" in line)
    names: dict[str, Any] = {"create_model": timm.create_model}
    exec(call, names)  # as a reader of the card would
    names["model"].load_state_dict(safetensors.torch.load_file(out / "model.safetensors"))


def test_a_real_backbone_is_fine_tuned_with_its_own_normalization(
    photographs: Path, tiny_shards: ShardSet, tmp_path: Path
) -> None:
    path = photographs / "weights" / "tf_efficientnet_lite0.safetensors"
    recipe = dataclasses.replace(TINY, model="timm/tf_efficientnet_lite0", weights=str(path), batch_size=16)
    model = build_model(recipe.backbone, recipe.weights, 3)
    stored = safetensors.torch.load_file(path)
    head, _ = head_of(model)
    assert head == "classifier"
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items() if not key.startswith(head))
    train(tiny_shards, tmp_path / "run", recipe, device="cpu")
    assert read_run(tmp_path / "run").inputs == HALF
    agreeing(tmp_path / "run")


def test_runs_from_before_have_the_normalization_of_imagenet(tiny_run: Path, tmp_path: Path) -> None:
    document = orjson.loads((tiny_run / "recipe.json").read_bytes())
    for name in ("inputs", "architecture"):
        del document[name]
    del document["recipe"]["drop_path"]
    (tmp_path / "recipe.json").write_bytes(orjson.dumps(document))
    run = read_run(tmp_path)
    assert (run.inputs, run.backbone.name) == (IMAGENET, "shufflenet_v2_x0_5")


def test_native_is_the_size_of_the_backbone(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["--shards", str(tiny_path), "--run", str(tmp_path / "native"), "--recipe", "demo", "--epochs", "1"]
    more = ["--model", "timm/test_convnext", "--image-size", "native", "--batch-size", "16", "--quiet"]
    code, _, err = command("train", *arguments, *more)
    assert code == 0, err
    assert read_run(tmp_path / "native").recipe.image_size == inputs_of("timm/test_convnext", "none").size == 160


def test_a_step_of_a_timm_network_waits_for_nothing_on_cuda() -> None:
    recipe = dataclasses.replace(TINY, compile="off", cuda_graph="off", drop_path=0.1)
    with fake_cuda() as mode:
        with mode.waiting_allowed():
            step = TrainStep(recipe, build_model(recipe.backbone, "none", 5), CUDA, 5, inputs=HALF)
            step.train_mode()
        for number in range(2):
            step.prepare(number, 1.0)
            step(batch(), 0)


@pytest.mark.slow
def test_a_compiled_step_of_a_timm_network_is_the_eager_one() -> None:
    losses = []
    for compiled in ("off", "on"):
        torch.manual_seed(0)
        torch.compiler.reset()
        recipe = dataclasses.replace(TINY, compile=compiled, amp="off")
        step = TrainStep(recipe, build_model(recipe.backbone, "none", 5), torch.device("cpu"), 5, inputs=HALF)
        step.train_mode()
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        for number in range(3):
            step.prepare(number, 1.0)
            loss, _ = step(Batch(images, torch.arange(8) % 5, torch.arange(8)), 0)
        assert step.compiled == (compiled == "on")
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
