"""Models by name with a new head, and weights from a file, torchvision or nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from food101_fast.errors import UserError
from food101_fast.models import build_model

NAMES = [
    "mobilenet_v2",
    "resnet18",
    "efficientnet_b0",
    "convnext_tiny",
    "shufflenet_v2_x0_5",
    "vit_b_32",
    "squeezenet1_1",
    "googlenet",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_replaced_whatever_it_is_called(name: str) -> None:
    size = 224 if name.startswith("vit") else 64
    with torch.inference_mode():
        assert build_model(name, "none", 7).eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_keep_all_but_a_head_of_another_size(tmp_path: Path, suffix: str) -> None:
    other = build_model("shufflenet_v2_x0_5", "none", 5)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(other.state_dict(), path)
    else:
        safetensors.torch.save_file(other.state_dict(), path)
    for classes in (5, 9):
        torch.manual_seed(1)
        loaded = build_model("shufflenet_v2_x0_5", str(path), classes).state_dict()
        torch.manual_seed(1)
        fresh = build_model("shufflenet_v2_x0_5", "none", classes).state_dict()
        for key, value in loaded.items():
            head_of_another_size = key.startswith("fc.") and classes == 9
            assert torch.equal(value, fresh[key] if head_of_another_size else other.state_dict()[key]), key


class Pretrained:
    """Stands in for torchvision's download."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked: list[str] = []

    def __call__(self, url: str, **_: Any) -> dict[str, torch.Tensor]:
        self.asked.append(url)
        if self.error is not None:
            raise self.error
        model: nn.Module = torchvision.models.get_model("mobilenet_v2", weights=None)
        return model.state_dict()


def test_torchvisions_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    download = Pretrained(None)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    model = build_model("mobilenet_v2", "DEFAULT", 3)
    assert model.classifier[1].out_features == 3  # type: ignore[index, union-attr]
    assert download.asked == [torchvision.models.MobileNet_V2_Weights.DEFAULT.url]


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", Pretrained(URLError("no route to host")))
    with pytest.raises(UserError, match=r"could not be downloaded .*no route to host.*--weights FILE") as error:
        build_model("mobilenet_v2", "DEFAULT", 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("mobilenet_v9", "none", "no classification model 'mobilenet_v9'"),
        ("fcn_resnet50", "none", "no classification model"),
        ("mobilenet_v2", "IMAGENET1K_V9", "has no weights 'IMAGENET1K_V9'; choose from DEFAULT, IMAGENET1K_V1"),
        ("mobilenet_v2", "missing.safetensors", "there is no file of weights"),
    ],
)
def test_what_can_not_be_built_is_one_sentence(name: str, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, weights, 3)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file(build_model("resnet18", "none", 3).state_dict(), path)
    with pytest.raises(UserError, match=r"are not of a mobilenet_v2: .* they look like those of resnet18"):
        build_model("mobilenet_v2", str(path), 3)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "resnet18"])
def test_no_activation_is_copied_for_its_gradient(name: str) -> None:
    """Autograd copies the input of an activation that is computed in place, if the gradient needs it."""
    model, theirs = build_model(name, "none", 3), torchvision.models.get_model(name, num_classes=3)
    theirs.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for network, may_copy in ((model, False), (theirs, name != "resnet18")):
        for module in network.modules():
            if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
                module.p = 0.0
        with Copies() as copies:
            logits = network(images)
        assert bool(copies.count) == may_copy
        logits.square().sum().backward()
    # It is the same function, to the bit.
    for ours, expected in zip(model.parameters(), theirs.parameters(), strict=True):
        assert ours.grad is not None
        assert torch.equal(ours.grad, expected.grad)


class Copies(TorchDispatchMode):
    """Counts copies of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name == "aten::clone"
        return func(*args, **(kwargs or {}))
