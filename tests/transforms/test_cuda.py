"""On a CUDA device: the parameters of the CPU, and its pixels. The bodies run on the CPU as well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from food101_fast import transforms as T
from food101_fast.transforms import PRESETS, PerSampleTransform, Preset, eval_preset, train_preset
from food101_fast.transforms.normalize import STD
from tests.cuda_device import DEVICES, chosen, harmless_warnings, needs_cuda, no_waiting
from tests.transforms.cases import CASES, NEAREST, Case, Tolerance
from tests.transforms.test_exactness import assert_close
from tests.transforms.test_presets import batch

pytestmark = harmless_warnings

HALF = Tolerance(levels=1, why="uint8 is multiplied as float16, with sums in float32, and rounded")
OF_CONTAINERS = {
    "RandomApply": HALF,
    "RandomChoice": Tolerance(levels=1, share=NEAREST.share, why="of a blur, as above, and of a rotation"),
}

CROPS: dict[str, Callable[[], PerSampleTransform]] = {
    "smaller": lambda: T.RandomResizedCrop(24),
    "larger": lambda: T.RandomResizedCrop((50, 60), scale=(0.1, 0.3)),
    "bicubic": lambda: T.RandomResizedCrop(24, interpolation="bicubic"),
}


@contextlib.contextmanager
def at_once(device: torch.device) -> Iterator[None]:
    """Compute batches on the CPU at once, as on a CUDA device."""
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":
            for module in ("base", "geometry"):
                patch.setattr(f"food101_fast.transforms.{module}.goes_one_by_one", lambda images: False)
        yield


def moved(params: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in params.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_parameters_and_pixels(case: Case, device: str) -> None:
    where, transform = chosen(device), case.make()
    images, uniform = batch(8), torch.rand(8, transform.draws)
    params = transform.params_from(uniform, 40, 40)
    there = transform.params_from(uniform.to(where), 40, 40)
    for name, value in params.items():
        assert torch.allclose(there[name].cpu().double(), value.double(), atol=1e-5), name
    out = transform.at_once(images.to(where), moved(params, where))
    tolerance = OF_CONTAINERS.get(case.name, case.tolerance)
    assert_close(out.cpu(), transform.transform(images, params), images, tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("crop", CROPS)
def test_crops_are_those_of_the_cpu(crop: str, flipped: bool, device: str) -> None:
    where, transform = chosen(device), CROPS[crop]()
    images, uniform = batch(8), torch.rand(8, transform.draws)
    params = transform.params_from(uniform, 40, 40)
    there = transform.params_from(uniform.to(where), 40, 40)
    for name, value in params.items():
        assert torch.equal(there[name].cpu(), value), name
    flip = (torch.arange(8) % 2 == 0) if flipped else torch.zeros(8, dtype=torch.bool)
    assert isinstance(transform, T.RandomResizedCrop)
    # torch's CPU kernel for uint8 cuts off between the axes what a bicubic filter overshoots; this one at the end.
    expected = transform.transform_and_flip(images.float(), params, flip).round().clamp(0, 255).to(torch.uint8)
    with at_once(where):
        out = transform.transform_and_flip(images.to(where), there, flip.to(where))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out.cpu(), expected, images, HALF)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [T.MixUp, T.CutMix])
def test_mixtures_are_those_of_the_cpu(kind: type[T.MixUp | T.CutMix], device: str) -> None:
    where, transform = chosen(device), kind(alpha=0.4, num_classes=5)
    images, labels, uniform = torch.rand(8, 3, 20, 24), torch.arange(8) % 5, torch.rand(8, transform.draws)
    params = transform.params_from(uniform, 20, 24)
    expected, soft = transform.mix(images, labels, params)
    there = transform.params_from(uniform.to(where), 20, 24)  # moves the transform's own table there
    assert torch.equal(there["partner"].cpu(), params["partner"])
    out, mixed = transform.mix(images.to(where), labels.to(where), there)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed.cpu(), soft, rtol=1e-5, atol=1e-5)


def off(got: Tensor, expected: Tensor, levels: float) -> float:
    """The share of values that are further apart than so many of the 255 levels of a stored image."""
    return ((got.cpu() - expected).abs() > (levels + 0.5) / 255 / min(STD)).float().mean().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "levels", "share"), [(name, *((1, 0.0) if name == "baseline" else (8, 0.02))) for name in PRESETS]
)
def test_a_preset_gives_the_images_of_the_cpu(name: str, levels: int, share: float, device: str) -> None:
    """A level that a crop was rounded to may become several, where contrast is raised or levels are few."""
    where = chosen(device)
    smooth = torch.nn.functional.interpolate(torch.rand(24, 3, 6, 6), size=(40, 40), mode="bilinear")
    images = (255 * smooth).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    labels, ids = torch.arange(24) % 5, torch.arange(24) + 100
    expected, soft = train_preset(name, 24, num_classes=5)(images, labels, seed=3, epoch=2, ids=ids)
    preset = train_preset(name, 24, num_classes=5).to(where)
    epoch = torch.full((), 2, device=where)
    with at_once(where):
        out, mixed = preset(images.to(where), labels.to(where), seed=3, epoch=epoch, ids=ids.to(where))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert off(out, expected, levels) <= share
    torch.testing.assert_close(mixed.cpu(), soft, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_gives_the_images_of_the_cpu(device: str) -> None:
    where, preset = chosen(device), eval_preset(24, 40)
    images = batch(6)
    expected = preset(images)
    assert off(preset.to(where)(images.to(where)), expected, 1) == 0


@needs_cuda
@pytest.mark.parametrize("name", PRESETS)
def test_a_compiled_preset_waits_for_nothing(name: str) -> None:
    where = chosen("cuda")
    preset: Preset = train_preset(name, 24, num_classes=5).to(where)
    images, ids = batch(6).to(where), torch.arange(6, device=where)
    epoch = torch.zeros((), dtype=torch.int64, device=where)
    compiled = torch.compile(preset, fullgraph=True)
    expected, _ = preset(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    compiled(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    with no_waiting(where):
        got, _ = compiled(images, ids % 5, seed=0, epoch=epoch, ids=ids)
        preset(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    assert off(got, expected.cpu(), 4) <= 0.01
