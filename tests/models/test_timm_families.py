"""Every family of timm has a head for our classes, and groups of layers from the input to it."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from food101_fast.models import Backbone, build_model, head_of, heads_of, inputs_of, layer_groups

timm = pytest.importorskip("timm", reason="needs the extra timm")

# Two heads, heads of convolutions, tokens and positions before the stem, stages that are registered by kind.
SPREAD = (
    "convnext", "crossvit", "deit", "dla", "efficientnet", "levit", "repvit", "resnetv2", "swiftformer",
    "twins", "vision_transformer", "visformer", "volo",
)  # fmt: skip
_SMALL = ("test_", "nano", "atto", "pico", "femto", "tiny", "_xt", "_xs", "_s0", "small", "_s", "_m0", "_b0")


def smallest(family: str) -> str:
    """A small model of a module of timm, as far as its name tells."""
    names = timm.list_models(module=family)
    if not names:
        pytest.skip(f"{family} has no models of its own")
    if family == "deit":
        return "deit_tiny_distilled_patch16_224"
    rank = lambda name: next((i for i, word in enumerate(_SMALL) if word in name), len(_SMALL))  # noqa: E731
    return str(min(names, key=lambda name: (rank(name), len(name), name)))


def calls(model: nn.Module, size: int) -> tuple[dict[str, int], torch.Tensor]:
    """For each module with parameters of its own the number of its first call, and the result."""
    first: dict[str, int] = {}

    def note(name: str) -> None:
        first.setdefault(name, len(first))

    modules = [(name, module) for name, module in model.named_modules() if name and [*module.parameters(recurse=False)]]
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, module in modules]
    out = model(torch.empty(2, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return first, out


def check(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vars(nn.init):
        if name.endswith("_") and not name.startswith("_"):  # initial values, most of the work, are of no use here
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
    name = f"timm/{smallest(family)}"
    for size in (64, inputs_of(name, "none").size):
        with torch.device("meta"):
            model = build_model(Backbone(name=name, image_size=size), "none", 7).eval()
        try:
            first, out = calls(model, size)
        except (RuntimeError, AssertionError):  # a small image shrinks to nothing, or the size is fixed
            continue
        break
    else:
        pytest.skip(f"{name} computes nothing on the meta device")
    assert out.shape == (2, 7)
    heads = {path for path, _ in heads_of(model)}
    assert head_of(model) == heads_of(model)[-1]
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert heads == {path for path, layer in layers if 7 in layer.weight.shape[:1]}
    groups = layer_groups(model)
    assert len(groups) > 3
    names = list(chain(*groups))
    assert sorted(names) == sorted(parameter for parameter, _ in model.named_parameters())
    assert {parameter.rpartition(".")[0] for parameter in groups[-1]} == heads
    # Tokens and positions of the input learn as slowly as the stem.
    for parameter in ("cls_token", "pos_embed", "dist_token", "reg_token"):
        assert parameter not in names or parameter in groups[0]
    called = [
        [first[path] for path in {name.rpartition(".")[0] for name in group} if path in first] for group in groups
    ]
    starts = [min(numbers) for numbers in called if numbers]
    if family == "efficientvim":  # has a head, and a norm before it, at every stage
        starts = starts[:-2]
    assert starts == sorted(starts)


@pytest.mark.parametrize("family", SPREAD)
def test_a_family_of_timm_has_heads_and_groups(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(family, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("family", [one for one in timm.list_modules() if one not in SPREAD])
def test_every_other_family_of_timm_has_heads_and_groups(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(family, monkeypatch)
