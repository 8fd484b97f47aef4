"""Presets: keyed by sample, normalized as torchvision normalizes, and compiled to one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from food101_fast.transforms import PRESETS, Preset, RandomChoice, RandomErasing, eval_preset, train_preset
from food101_fast.transforms.normalize import MEAN, STD


def batch(n: int, size: int = 40) -> Tensor:
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return images.contiguous(memory_format=torch.channels_last)


def without_mixing(name: str, image_size: int = 24) -> Preset:
    """A preset without what looks at other samples of the batch."""
    preset = train_preset(name, image_size, num_classes=5)
    return Preset(list(preset.transforms)[: -1 if preset.needs_labels else None])


@pytest.mark.parametrize("name", PRESETS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """Nor on its position there, nor on the rank."""
    preset, images, ids = without_mixing(name), batch(18), torch.arange(100, 118)
    images[17 - 9] = images[3]
    together = preset(images, seed=1, epoch=3, ids=ids)
    turned = preset(images.flip(0), seed=1, epoch=3, ids=ids.flip(0))
    assert torch.equal(turned.flip(0), together)
    for i in range(18):
        assert torch.equal(preset(images[i : i + 1], seed=1, epoch=3, ids=ids[i : i + 1])[0], together[i])
    for part in (slice(0, 9), slice(9, 18)):
        assert torch.equal(preset(images[part], seed=1, epoch=3, ids=ids[part]), together[part])
    for other in ({"seed": 2, "epoch": 3}, {"seed": 1, "epoch": 4}):
        assert not torch.equal(preset(images, ids=ids, **other), together)
    assert not torch.equal(together[8], together[3])  # the same picture under another id


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_result_is_normalized_channels_last(name: str, dtype: torch.dtype) -> None:
    preset = train_preset(name, 24, num_classes=5, dtype=dtype)
    labels = torch.arange(5)
    out, soft = preset(batch(5), labels, seed=0, epoch=0, ids=torch.arange(5))
    assert out.shape == (5, 3, 24, 24)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert -2.2 < out.min() < out.max() < 2.7
    if preset.needs_labels:
        assert soft.shape == (5, 5)
        with pytest.raises(ValueError, match="pass the labels, too"):
            preset(batch(5), seed=0, epoch=0, ids=torch.arange(5))
    else:
        assert soft is labels
        assert torch.equal(preset(batch(5), seed=0, epoch=0, ids=torch.arange(5)), out)


def test_without_randomness_it_is_torchvisions_normalization() -> None:
    images = batch(3, 24)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    assert torch.equal(
        Preset([train_preset("baseline", 24).transforms[-1]])(images, seed=0, epoch=0, ids=torch.arange(3)),
        reference(images),
    )


def kinds(preset: Preset) -> list[tuple[str, str]]:
    """The transforms after the conversion to floating numbers, with their numbers."""
    found, names = [], [type(transform).__name__ for transform in preset.transforms]
    for transform in list(preset.transforms)[names.index("ToNormalized") + 1 :]:
        for one in transform.transforms if isinstance(transform, RandomChoice) else [transform]:
            number = one.p if isinstance(one, RandomErasing) else one.alpha
            found.append((type(one).__name__, f"{number:g}"))
    return found


OWN = {
    "baseline": (0.0, 0.0, 0.0),
    "strong": (0.25, 0.0, 0.0),
    "trivial": (0.1, 0.2, 1.0),
    "randaugment": (0.0, 0.2, 1.0),
    "autoaugment": (0.2, 0.0, 0.0),
    "augmix": (0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("given", list(product((None, 0.0, 0.7), repeat=3)))
def test_what_is_given_replaces_what_the_preset_has(name: str, given: tuple[float | None, ...]) -> None:
    """0 is off, None is the preset's own, in any combination; with all None nothing differs from the preset."""
    erasing, mixup, cutmix = given
    preset = train_preset(name, 24, num_classes=5, erasing=erasing, mixup_alpha=mixup, cutmix_alpha=cutmix)
    numbers = [own if value is None else value for own, value in zip(OWN[name], given, strict=True)]
    expected = zip(("RandomErasing", "MixUp", "CutMix"), numbers, strict=True)
    assert kinds(preset) == [(kind, f"{number:g}") for kind, number in expected if number]
    assert preset.needs_labels == any(numbers[1:])
    own = train_preset(name, 24, num_classes=5)
    assert list(map(type, preset.transforms))[:3] == list(map(type, own.transforms))[:3]


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
@pytest.mark.parametrize("name", ["baseline", "trivial"])
def test_given_mixing_mixes_the_labels(name: str, alphas: tuple[float, float]) -> None:
    preset = train_preset(name, 24, num_classes=5, mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    out, soft = preset(batch(40), torch.arange(40) % 5, seed=0, epoch=0, ids=torch.arange(40))
    assert out.shape == (40, 3, 24, 24)
    assert torch.allclose(soft.sum(dim=1), torch.ones(40))
    assert ((soft > 0).sum(dim=1) == 2).any()


@pytest.mark.parametrize(("stored", "resized"), [(192, 183), (160, 160), (64, 160)])
@pytest.mark.parametrize("n", [1, 2])
def test_evaluation_resizes_and_crops_as_torchvision(
    stored: int, resized: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with AVX2, where it computes in integers; ours do so on every processor."""
    images = batch(n, stored)
    reference = v2.Compose(
        [
            v2.Resize(resized),
            v2.CenterCrop(160),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    expected = reference(images)
    for capability in ("AVX2", "DEFAULT"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)  # noqa: B023
        out = eval_preset(160, stored)(images, seed=0, epoch=0, ids=torch.arange(n))
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ids": torch.arange(3)}, "a number for each of the 4 images"),
        ({"ids": torch.arange(4.0)}, "ids should be an int64 tensor"),
        ({"ids": None}, "ids should be an int64 tensor"),
        ({"labels": torch.arange(3)}, "3 labels and 4 images"),
        ({"images": batch(4)[0]}, "needs a batch of images"),
        ({"seed": -1}, "seed should be at least 0"),
        ({"seed": 1 << 64}, "seed should be at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    given = {"images": batch(4), "labels": torch.arange(4), "seed": 0, "epoch": 0, "ids": torch.arange(4), **wrong}
    with pytest.raises(ValueError, match=message):
        train_preset("baseline", 24)(given.pop("images"), given.pop("labels"), **given)


def test_without_randomness_there_is_no_key() -> None:
    preset = eval_preset(24, 40)
    assert torch.equal(preset(batch(3)), preset(batch(3), seed=3, epoch=1, ids=torch.arange(3)))


@pytest.fixture
def compiled() -> Iterator[Callable[[Preset], tuple[Any, list[int]]]]:
    """Compiles a preset to one graph, which is then run as it was captured; counts how often."""

    def run(preset: Preset) -> tuple[Any, list[int]]:
        compilations: list[int] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            compilations.append(len(graph.graph.nodes))
            return graph.forward

        return torch.compile(preset, fullgraph=True, backend=backend), compilations

    torch._dynamo.reset()
    yield run
    torch._dynamo.reset()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transform a batch at once, as on a GPU, also without compiling.

    How far that is from image by image is tested in test_exactness.
    """
    for module in ("base", "geometry"):
        monkeypatch.setattr(f"food101_fast.transforms.{module}.goes_one_by_one", lambda images: False)


# Their operations are those of strong, and tracing them takes seconds.
SIMILAR = ("trivial", "randaugment", "autoaugment", "augmix")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SIMILAR)) for name in (*PRESETS, "eval")]
)
def test_a_preset_compiles_to_one_graph(name: str, compiled: Callable[[Preset], tuple[Any, list[int]]]) -> None:
    """Once, and once more for the last, smaller batch; another epoch needs no other graph than those two."""
    preset = eval_preset(24, 40) if name == "eval" else train_preset(name, 24, num_classes=5)
    whole, compilations = compiled(preset)
    for n, epoch in ((6, 0), (6, 1), (4, 1), (3, 2), (6, 7), (2, 9)):
        images, labels, ids = batch(n), torch.arange(n) % 5, torch.arange(n) + 50
        got, soft = whole(images, labels, seed=7, epoch=torch.tensor(epoch), ids=ids)
        expected, soft_expected = preset(images, labels, seed=7, epoch=epoch, ids=ids)
        assert torch.allclose(soft, soft_expected, atol=1e-6)
        assert torch.allclose(got, expected, atol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert len(compilations) <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", PRESETS)
def test_inductor_compiles_a_preset(name: str) -> None:
    """With the compiler itself, which takes a minute.

    It fuses multiplications and additions, so that a few values are cut off to another level.
    """
    torch._dynamo.reset()
    preset = train_preset(name, 24, num_classes=5)
    images, labels, ids = batch(6), torch.arange(6) % 5, torch.arange(6)
    got, _ = torch.compile(preset, fullgraph=True)(images, labels, seed=7, epoch=torch.tensor(3), ids=ids)
    expected, _ = preset(images, labels, seed=7, epoch=3, ids=ids)
    assert ((got - expected).abs() > (1.5 / 255 / 0.225)).float().mean() <= 0.005
