"""What the exported program does to an image before the model is, to the bit, what prepare and evaluation do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from food101_fast.export.program import Program
from food101_fast.images import Fit, Rules, clean
from food101_fast.transforms import EvalSpec, InputSpec, eval_preset
from food101_fast.transforms.normalize import IMAGENET
from tests.conftest import encoded


class Seen(nn.Module):
    """A model whose two logits say that it saw these pixels."""

    images: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        return images.flatten(1)[:, :2]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(
    seed=st.integers(0, 99),
    height=st.integers(1, 300),
    width=st.integers(5, 300),  # far taller pictures are resized along the height first
    stored=st.integers(4, 130),
    fit=st.sampled_from(["crop", "squash"]),
)
def test_images_are_fitted_as_prepare_fits_them(seed: int, height: int, width: int, stored: int, fit: Fit) -> None:
    from PIL import Image

    pixels = noise(seed, height, width)
    rules = Rules(size=stored, fit=fit)
    expected = clean(encoded(Image.fromarray(pixels), "PNG", compress_level=0), rules).pixels
    seen = Seen()
    program = Program(seen, rules=rules, spec=EvalSpec.of(stored, stored))
    program(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    as_seen = eval_preset(stored, stored)(torch.from_numpy(expected.copy()).permute(2, 0, 1)[None])
    assert torch.equal(seen.images, as_seen)


OTHERS = InputSpec(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.2), interpolation="bicubic")


@given(
    seed=st.integers(0, 99),
    stored=st.integers(8, 260),
    share=st.floats(0.3, 1.2),
    inputs=st.sampled_from([IMAGENET, OTHERS]),
)
def test_stored_images_are_seen_as_evaluation_sees_them(
    seed: int, stored: int, share: float, inputs: InputSpec
) -> None:
    size = max(4, round(share * stored))
    images = torch.from_numpy(np.stack([noise(seed + i, stored, stored) for i in range(2)])).permute(0, 3, 1, 2)
    seen = Seen()
    program = Program(seen, rules=Rules(size=stored), spec=EvalSpec.of(size, stored, inputs))
    program(images)
    assert torch.equal(seen.images, eval_preset(size, stored, inputs=inputs)(images))


def test_it_shrinks_to_what_evaluation_shrinks_to() -> None:
    """That the comparison above is not one of images that were never resized."""
    assert EvalSpec.of(160, 192) == EvalSpec(resize=183, crop=160)


@pytest.mark.parametrize("batch", [1, 3])
def test_probabilities_add_up_to_one(batch: int) -> None:
    program = Program(Seen(), rules=Rules(size=8), spec=EvalSpec.of(8, 8))
    got = program(torch.randint(0, 256, (batch, 3, 20, 30), dtype=torch.uint8))
    assert got.shape == (batch, 2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.sum(1), torch.ones(batch))
