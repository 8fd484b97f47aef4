"""Weights from files of every kind: what is loaded, and what is refused. Each row of the tables is a file."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from food101_fast.errors import UserError
from food101_fast.models import build_model, load_file

State = dict[str, Tensor]
NAME = "small"


class Small(nn.Module):
    """A network as others are, with 20 tensors."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16))
        self.stages = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(2))
        )
        self.fc = nn.Linear(16, classes)


@pytest.fixture(scope="module")
def source() -> State:
    """The weights that all files of the tables have; their head has five classes."""
    torch.manual_seed(7)
    state = Small().state_dict()
    return {name: tensor + 3 if "num_batches" in name else torch.randn_like(tensor) for name, tensor in state.items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def without(state: State, *words: str) -> State:
    return {name: tensor for name, tensor in state.items() if not any(word in name for word in words)}


def half(state: State, dtype: torch.dtype) -> State:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def ten_classes(state: State) -> State:
    return state | {"fc.weight": torch.zeros(10, 16), "fc.bias": torch.zeros(10)}


ACCEPTED: list[tuple[str, Callable[[State], object], str]] = [
    # What the file is, how it is made, and the line without "tensors loaded from FILE".
    ("state dict", dict, "20 of 20"),
    ("ordered dict", collections.OrderedDict, "20 of 20"),
    ("state_dict", lambda s: {"state_dict": s, "epoch": 3, "arch": "x", "best": 0.7}, "20 of 20"),
    ("model", lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, "20 of 20"),
    ("model_state_dict", lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)}, "20 of 20"),
    ("net", lambda s: {"net": s, "acc": 93.1}, "20 of 20"),
    ("any name", lambda s: {"my_favorite_network": s}, "20 of 20"),
    ("arguments beside it", lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, names=["a"])}, "20 of 20"),
    ("ema", lambda s: {"model": zeros(s), "ema": s}, "20 of 20 (EMA weights in ema)"),
    ("timm", lambda s: {"state_dict": zeros(s), "state_dict_ema": s}, "20 of 20 (EMA weights in state_dict_ema)"),
    (
        "torchvision's references",
        lambda s: {"model": zeros(s), "model_ema": {"n_averaged": torch.tensor(9), **prefixed(s, "module.")}},
        "20 of 20 (EMA weights in model_ema, prefix module. removed)",
    ),
    ("SWA", lambda s: {"model": zeros(s), "swa": s}, "20 of 20 (averaged weights in swa)"),
    (
        "Lightning",
        lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 0.1}, "loops": {}, "callbacks": {}},
        "20 of 20 (prefix model. removed)",
    ),
    (
        "Lightning, compiled, with metrics",
        lambda s: {"state_dict": prefixed(s, "model._orig_mod.") | {"loss.weight": torch.ones(5)}},
        "20 of 20 (prefix model._orig_mod. removed); not used: loss.weight",
    ),
    (
        "Lightning with an average inside",
        lambda s: {"state_dict": prefixed(zeros(s), "net.") | prefixed(s, "ema_net.module.")},
        "20 of 20 (EMA weights in state_dict.ema_net, prefix ema_net.module. removed); not used: net (17 tensors)",
    ),
    ("Composer", lambda s: {"state": {"model": prefixed(s, "module."), "rank_zero_seed": 1}, "rng": [{"python": 1}]},
     "20 of 20 (prefix module. removed)"),
    (
        "DINO",
        lambda s: {"student": prefixed(zeros(s), "module.backbone."), "teacher": prefixed(s, "backbone."), "epoch": 1},
        "20 of 20 (teacher's weights in teacher.backbone, prefix backbone. removed)",
    ),
    (
        "MoCo",
        lambda s: {
            "state_dict": prefixed(without(s, "fc."), "module.encoder_q.")
            | prefixed(zeros(without(s, "fc.")), "module.encoder_k.")
            | {"module.queue": torch.zeros(128, 9)}
        },
        "18 of 20 (prefix module.encoder_q. removed); fc is new; not used: encoder_k (15 tensors), queue",
    ),
    ("DDP, compiled", lambda s: prefixed(s, "module._orig_mod."), "20 of 20 (prefix module._orig_mod. removed)"),
    ("DDP", lambda s: prefixed(s, "module."), "20 of 20 (prefix module. removed)"),
    (
        "FSDP around layers",
        lambda s: {name.replace("stages.1.", "stages.1._fsdp_wrapped_module."): tensor for name, tensor in s.items()},
        "20 of 20 (prefix _fsdp_wrapped_module. removed)",
    ),
    ("float16", lambda s: half(s, torch.float16), "20 of 20"),
    ("bfloat16", lambda s: half(s, torch.bfloat16), "20 of 20"),
    ("without num_batches_tracked", lambda s: without(s, "num_batches_tracked"), "17 of 17"),
    ("without a head", lambda s: without(s, "fc."), "18 of 20; fc is new"),
    ("another number of classes", ten_classes, "18 of 20; fc is new"),
    (
        "a head of another name",
        lambda s: without(s, "fc.") | {"head.0.weight": torch.zeros(7, 16), "head.0.bias": torch.zeros(7)},
        "18 of 20; fc is new; not used: head (2 tensors)",
    ),
    ("parameters", lambda s: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()}, "20 of 20"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "make", "outcome"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_a_file_is_loaded_and_the_line_says_how(
    kind: str, make: Callable[[State], object], outcome: str, source: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(make(source), path)
    torch.manual_seed(1)
    model = Small()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = load_file(model, NAME, str(path))
    tolerance = {"float16": 2e-3, "bfloat16": 1e-2}.get(kind, 0.0)
    numbers = re.match(r"\d+ of \d+", outcome)
    assert numbers is not None
    assert loaded.line == f"{numbers[0]} tensors loaded from {path}{outcome[numbers.end() :]}"
    assert loaded.warning is None
    for name, tensor in model.state_dict().items():
        absent = "fc." if "fc is new" in outcome else "num_batches" if "17 of 17" in outcome else "nothing"
        theirs = fresh[name] if absent in name else source[name]
        assert tensor.dtype == fresh[name].dtype
        torch.testing.assert_close(tensor, theirs, rtol=tolerance, atol=0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".safetensors"])
@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "safetensors"])
def test_the_bytes_say_what_a_file_is_and_not_its_name(how: str, suffix: str, source: State, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if how == "safetensors":
        path.write_bytes(safetensors.torch.save(source))
    else:
        torch.save({"state_dict": source}, path, _use_new_zipfile_serialization=how == "zip")
    model = Small()
    assert load_file(model, NAME, str(path)).line == f"20 of 20 tensors loaded from {path}"
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.state_dict().items())


class Evil:
    """What it would do when it is unpickled is to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "yes"))


def saved(document: object) -> bytes:
    stream = io.BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), stream)
    return stream.getvalue()


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"0" * 99)
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


CONVERT = r'if you trust it, convert it: python -c "import torch; torch.save\(torch.load\(.*weights_only=False\)'
REFUSED: list[tuple[str, Callable[[State], object], str]] = [
    # What the file is, its content (bytes, or what torch.save writes), and what the sentence says.
    ("evil.pth", lambda s: {"state_dict": s, "x": Evil(Path("ran"))}, rf"{CONVERT}\['state_dict'\], 'evil-weights.pth"),
    ("whole.pt", lambda s: nn.Linear(2, 2), rf"needs torch.nn.modules.linear.Linear\).*{CONVERT}.state_dict\(\), "),
    ("yolo.pt", lambda s: {"epoch": 1, "model": nn.Linear(2, 2)}, rf"{CONVERT}\['model'\].state_dict\(\), "),
    ("hparams.ckpt", lambda s: {"state_dict": s, "hyper_parameters": nn.ReLU()}, rf"{CONVERT}\['state_dict'\], "),
    ("numpy.pth", lambda s: {"model": s, "best": np.float64(0.9)}, rf"needs numpy.*scalar\).*{CONVERT}\['model'\], "),
    ("plain.pkl", lambda s: pickle.dumps({"a": 1}), "since torch.save did not write it; if you trust it"),
    ("script.pt", lambda s: scripted(), "is a TorchScript archive: load it with torch.jit.load"),
    ("program.pt2", lambda s: zipped("m/models/model.json"), "is a torch.export program"),
    ("net.keras", lambda s: zipped("model.weights.h5"), "is a Keras model"),
    ("jax.npz", lambda s: arrays(), "is an archive of NumPy arrays"),
    ("photos.zip", lambda s: zipped("a.jpg"), "is a zip archive without weights of torch"),
    ("net.onnx", lambda s: b"\x08\x07\x12\x07pytorch", "is an ONNX model"),
    ("net.tflite", lambda s: b"\x1c\0\0\0TFL3" + bytes(99), "is a TFLite model"),
    ("net.gguf", lambda s: b"GGUF" + bytes(99), "is a GGUF file"),
    ("net.h5", lambda s: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    ("flax.msgpack", lambda s: b"\x82\xa1a\x01", "is Flax weights in msgpack"),
    ("page.pth", lambda s: b"\n<!DOCTYPE html><html>", "is a web page .*with /resolve/ and not /blob/"),
    ("lfs.safetensors", lambda s: b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer .*git lfs pull"),
    ("empty.pth", lambda s: b"", "is empty"),
    ("noise.pth", lambda s: b"noise", "cannot be read .*incomplete, damaged or not a file of weights"),
    ("cut.safetensors", lambda s: safetensors.torch.save(s)[:-100], "cannot be read .*incomplete"),
    ("cut.pth", lambda s: saved(s)[:-100], "cannot be read .*incomplete"),
    ("numbers.pth", lambda s: {"epoch": 3}, r"does not contain a state dict; save model.state_dict\(\)"),
    ("sgd.pth", lambda s: {"optimizer": {"state": {"a": {"stem": torch.ones(3)}}}}, "does not contain a state dict"),
    ("other.pth", lambda s: {"a.weight": torch.ones(3)}, "not of a small: only 0% .*stem.0.weight is missing, .* more"),
    ("wide.pth", lambda s: {n: torch.zeros(*t.shape, 2) for n, t in s.items()},
     r"only 0% .*stem.0.weight has the shape \(16, 3, 3, 3, 2\) and not \(16, 3, 3, 3\)"),
    ("int8.pth", lambda s: {n: t.to(torch.int8) for n, t in s.items()}, "stem.0.weight is torch.int8 and not torch."),
    ("half.pth", lambda s: without(s, "stages.1."), "only 5.% of its .* values fit .*stages.1.0.weight is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_file_is_refused_in_one_sentence(
    name: str,
    make: Callable[[State], object],
    message: str,
    source: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = make(source)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else saved(content))
    model = Small()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        load_file(model, NAME, name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["evil.pth", "whole.pt", "yolo.pt", "hparams.ckpt", "numpy.pth"])
def test_the_command_that_a_refusal_gives_converts_the_file(
    name: str, source: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs code from the file, which is the user's decision."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(saved(next(row[1] for row in REFUSED if row[0] == name)(source)))
    with pytest.raises(UserError) as error:
        load_file(Small(), NAME, name)
    command = re.search(r'python -c "(.*)" and give (\S+) to --weights', str(error.value))
    assert command is not None
    exec(command[1])
    state = torch.load(command[2], weights_only=True)
    assert state
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    assert (tmp_path / "ran").exists() == (name == "evil.pth")


WARNED: list[tuple[str, Callable[[State], State], str]] = [
    (
        "a layer is missing",
        lambda s: without(s, "stem.1."),
        r"fit 98.\d% of the backbone, .*\(stem.1.weight is mis",
    ),
    (
        "gray images",
        lambda s: s | {"stem.0.weight": torch.zeros(16, 1, 3, 3)},
        r"fit 91.\d% of the backbone.*\(stem.0.weight has the shape \(16, 1, 3, 3\) and not \(16, 3, 3, 3\)\)",
    ),
    ("NaN", lambda s: s | {"fc.bias": torch.full((5,), torch.nan)}, r"contain NaN or Inf \(fc.bias\)"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in WARNED], ids=[row[0] for row in WARNED])
def test_what_fits_nearly_is_loaded_with_a_warning(
    make: Callable[[State], State], message: str, source: State, tmp_path: Path
) -> None:
    torch.save(make(source), tmp_path / "w.pth")
    model = Small()
    loaded = load_file(model, NAME, str(tmp_path / "w.pth"))
    assert loaded.warning is not None
    assert re.search(message, loaded.warning)
    assert torch.equal(model.stages.state_dict()["1.0.weight"], source["stages.1.0.weight"])


WORDS = ["module", "_orig_mod", "model", "backbone", "encoder", "network", "net", "x"]


@given(
    outer=st.lists(st.sampled_from(WORDS), max_size=4),
    inner=st.sampled_from(["", "module.", "_orig_mod.", "_checkpoint_wrapped_module.", "module._orig_mod."]),
    nesting=st.lists(st.sampled_from(["state_dict", "model", "ema", "module"]), max_size=2),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prefixes_in_any_order_are_removed(
    outer: list[str], inner: str, nesting: list[str], source: State, tmp_path: Path
) -> None:
    prefix = "".join(f"{word}." for word in outer)
    document: object = {prefix + name.replace("stages.", f"stages.{inner}"): tensor for name, tensor in source.items()}
    for name in nesting:
        document = {name: document, "epoch": 1}
    torch.save(document, tmp_path / "w.pth")
    model = Small()
    loaded = load_file(model, NAME, str(tmp_path / "w.pth"))
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.state_dict().items())
    assert ("EMA" in loaded.line) == ("ema" in nesting)
    assert f"prefix {prefix}" in loaded.line or not prefix
    assert loaded.warning is None


class TwoLayers(nn.Module):
    """Its classifier has a hidden layer, as MobileNetV3's and VGG's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, classes))


@pytest.mark.parametrize(
    ("removed", "line"),
    [
        ((), "4 of 6 tensors loaded from {}; classifier.2 is new"),
        (("classifier.2",), "4 of 6 tensors loaded from {}; classifier.2 is new"),
        (("classifier.",), "2 of 6 tensors loaded from {}; classifier is new"),
    ],
)
def test_a_head_may_have_layers_around_it(removed: tuple[str, ...], line: str, tmp_path: Path) -> None:
    torch.save(without(TwoLayers(9).state_dict(), *removed), tmp_path / "w.pth")
    loaded = load_file(TwoLayers(3), "two", str(tmp_path / "w.pth"))
    assert loaded.line == line.format(tmp_path / "w.pth")
    assert loaded.warning is None


def test_a_vision_transformer_of_another_image_size(tmp_path: Path) -> None:
    """Its position embeddings are resized by torchvision's own function, and by timm's for timm's."""
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16, "num_classes": 4}

    def theirs(size: int) -> Any:
        return torchvision.models.VisionTransformer(image_size=size, patch_size=8, **sizes)

    def timms(size: int) -> nn.Module:
        return timm.models.VisionTransformer(
            img_size=size, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=4
        )

    for make, how in ((theirs, "position embeddings resized"), (timms, "converted by timm")):
        state = make(32).state_dict()
        torch.save(prefixed(state, "module."), tmp_path / "w.pth")
        model = make(48)
        loaded = load_file(model, "vit", str(tmp_path / "w.pth"))
        assert loaded.line.startswith(f"{len(state)} of {len(state)} tensors loaded")
        assert loaded.line.endswith(f"(prefix module. removed, {how})")
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items() if "pos_embed" not in name)


def test_original_names_are_known_to_timm(tmp_path: Path) -> None:
    """Weights of Meta's ConvNeXt, as its authors published them."""
    model = timm.create_model("convnext_atto", num_classes=3)
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        name = re.sub(r"stages.(\d).downsample.(\d)", r"downsample_layers.\1.\2", name)
        name = re.sub(r"stages.(\d).blocks.(\d)", r"stages.\1.\2", name)
        for ours, original in (("conv_dw", "dwconv"), ("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2")):
            name = name.replace(ours, original)
        state[name] = torch.randn_like(tensor)
    torch.save({"model": state}, tmp_path / "original.pth")
    loaded = load_file(model, "timm/convnext_atto", str(tmp_path / "original.pth"))
    assert loaded.line.endswith("(converted by timm)")
    assert loaded.warning is None
    assert torch.equal(model.state_dict()["stages.1.blocks.0.mlp.fc1.weight"], state["stages.1.0.pwconv1.weight"])


def test_real_weights_load_completely(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mobilenet, lite = (
        photographs / "weights" / f"{name}.safetensors" for name in ("mobilenet_v2_imagenet", "tf_efficientnet_lite0")
    )
    for classes, line in ((1000, "314 of 314"), (10, "312 of 314")):
        build_model("mobilenet_v2", str(mobilenet), classes)
        assert capsys.readouterr().out.startswith(f"{line} tensors loaded")
    for classes, line in ((1000, "296 of 296"), (10, "294 of 296")):
        model = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
        assert load_file(model, "timm/tf_efficientnet_lite0", str(lite)).line.startswith(f"{line} tensors loaded")
    with pytest.raises(UserError, match=r"not of a mobilenet_v2: .*they look like those of timm/tf_efficientnet_lite0"):
        build_model("mobilenet_v2", str(lite), 10)
    with pytest.raises(
        UserError, match=r"not of a resnet18: .*they look like those of mobilenet_v2.*: give --model mobilenet_v2"
    ):
        build_model("resnet18", str(mobilenet), 10)
