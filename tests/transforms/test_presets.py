"""Presets: keyed by sample, normalised as torchvision normalises, and compiled to one graph."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from food101_fast.transforms import PRESETS, eval_preset, train_preset


def batch(n: int, size: int = 40) -> torch.Tensor:
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", PRESETS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    preset, images, ids = train_preset(name, 24), batch(6), torch.tensor([9, 4, 17, 0, 3, 8])
    together = preset(images, seed=1, epoch=3, ids=ids)
    turned = preset(images.flip(0), seed=1, epoch=3, ids=ids.flip(0))
    assert torch.equal(turned.flip(0), together)
    for i in range(6):
        assert torch.equal(preset(images[i : i + 1], seed=1, epoch=3, ids=ids[i : i + 1])[0], together[i])
    for other in ({"seed": 2, "epoch": 3}, {"seed": 1, "epoch": 4}):
        assert not torch.equal(preset(images, ids=ids, **other), together)


@pytest.mark.parametrize("name", PRESETS)
def test_the_result_is_normalised_channels_last(name: str) -> None:
    out = train_preset(name, 24)(batch(5), seed=0, epoch=0, ids=torch.arange(5))
    assert out.shape == (5, 3, 24, 24)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert -2.2 < out.min() < out.max() < 2.7


@pytest.mark.parametrize(("stored", "resized"), [(192, 183), (160, 160), (64, 160)])
def test_evaluation_resizes_and_crops_as_torchvision(stored: int, resized: int) -> None:
    images = batch(2, stored)
    reference = v2.Compose(
        [
            v2.Resize(resized),
            v2.CenterCrop(160),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    out = eval_preset(160, stored)(images, seed=0, epoch=0, ids=torch.arange(2))
    assert torch.equal(out, reference(images))
    assert out.is_contiguous(memory_format=torch.channels_last)
