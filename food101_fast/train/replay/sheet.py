"""The pictures of a batch: each stored image beside what the model saw, in pages of 64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from food101_fast.train.replay.results import Sample

_LARGEST = 128  # pixels, of an image in a picture
_COLUMNS, _PER_PAGE = 8, 64
_GAP, _LINE, _FRAME = 8, 16, 2
_RED = (204, 0, 0)


def unnormalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images as the model sees them, (N, 3, h, w), as uint8 pixels on the CPU. NaN and Inf become black and white."""
    pixels = (images.float() * std + mean) * 255
    return pixels.nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8).cpu()


def draw_pages(stored: Tensor, seen: Tensor, samples: Sequence[Sample], marked: Sequence[int]) -> list[Image.Image]:
    """Draw a batch.

    Args:
        stored: uint8 (N, 3, H, W), on the CPU.
        seen: uint8 (N, 3, h, w), on the CPU.
        samples: of the batch.
        marked: ids of samples that get a red frame.
    """
    side = min(max(stored.shape[-1], seen.shape[-1]), _LARGEST)
    pages = []
    for first in range(0, len(samples), _PER_PAGE):
        some = range(first, min(first + _PER_PAGE, len(samples)))
        width, height = 2 * side + _GAP, side + _LINE + _GAP
        rows = -(-len(some) // _COLUMNS)
        page = Image.new("RGB", (min(len(some), _COLUMNS) * width + _GAP, rows * height + _GAP), "white")
        for place, index in enumerate(some):
            corner = _GAP + place % _COLUMNS * width, _GAP + place // _COLUMNS * height
            for column, images in enumerate((stored, seen)):
                page.paste(_tile(images[index], side), (corner[0] + column * side, corner[1]))
            _caption(page, corner, side, samples[index], is_marked=samples[index].id in marked)
        pages.append(page)
    return pages


def _tile(image: Tensor, side: int) -> Image.Image:
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)


def _caption(page: Image.Image, corner: tuple[int, int], side: int, sample: Sample, *, is_marked: bool) -> None:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    text = f"{sample.id} {sample.label}"
    while len(text) > 1 and font.getlength(text) > 2 * side:
        text = text[:-1]
    draw.text((corner[0], corner[1] + side + 1), text, fill=_RED if is_marked else "black", font=font)
    if is_marked:
        end = (corner[0] + 2 * side - 1, corner[1] + side - 1)
        draw.rectangle((*corner, *end), outline=_RED, width=_FRAME)
