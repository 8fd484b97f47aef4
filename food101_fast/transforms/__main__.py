"""`python -m food101_fast.transforms`: a picture of samples before and after a preset, as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.shards import ShardSet
from food101_fast.storage import write_atomically, writing
from food101_fast.transforms.normalize import MEAN, STD
from food101_fast.transforms.presets import PRESETS, train_preset

_MARGIN, _LINE = 6, 18


@dataclass(frozen=True, kw_only=True)
class TransformsSettings:
    """Draw samples before and after a preset: a row for each sample, a column for each epoch."""

    shards: str
    """Folder of shards, or its URL."""
    out: Path
    """Picture to write (.png or .jpg)."""
    preset: str = "baseline"
    """Augmentation: baseline, strong, trivial, randaugment, autoaugment or augmix."""
    mixup_alpha: Annotated[float, Ge(0)] | None = None
    """Strength of MixUp: alpha of its distribution Beta(alpha, alpha). None is what --preset has, and 0 is no MixUp."""
    cutmix_alpha: Annotated[float, Ge(0)] | None = None
    """Strength of CutMix: alpha of its distribution Beta(alpha, alpha). None is what --preset has, and 0 is none."""
    erasing: Annotated[float, Ge(0), Le(1)] | None = None
    """Probability that a rectangle of an image is erased. None is what --preset has, and 0 is never."""
    image_size: Annotated[int, Ge(1)] | None = None
    """Height and width that the model sees, in pixels; by default the size in the shards, at most 160."""
    samples: Annotated[int, Ge(1)] = 6
    """Rows of the picture."""
    epochs: Annotated[int, Ge(1)] = 7
    """Columns of the picture, besides the stored images."""
    seed: Annotated[int, Ge(0)] = 0
    """Decides which samples are shown, and their augmentation."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"--preset {self.preset!r} should be one of: {', '.join(PRESETS)}")
        check_limits(self)
        if self.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UserError(f"--out {self.out} should end in .png or .jpg")


def augmented(settings: TransformsSettings) -> tuple[Tensor, list[Tensor]]:
    """Stored images, and for each epoch what the model sees, all uint8 (N, 3, H, W)."""
    shards = ShardSet.open(settings.shards)
    split = shards.split("train")
    chosen = np.random.default_rng(settings.seed).permutation(len(split))[: settings.samples]
    rows = torch.empty(len(chosen), split.row_bytes, dtype=torch.uint8)
    labels = torch.from_numpy(split.gather(chosen, rows))
    images = rows.view(-1, split.image_size, split.image_size, 3).permute(0, 3, 1, 2)
    size = settings.image_size or min(split.image_size, 160)
    preset = train_preset(
        settings.preset,
        size,
        num_classes=len(shards.classes),
        mixup_alpha=settings.mixup_alpha,
        cutmix_alpha=settings.cutmix_alpha,
        erasing=settings.erasing,
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    seen = []
    for epoch in range(settings.epochs):
        out, _ = preset(images, labels, seed=settings.seed, epoch=epoch, ids=torch.from_numpy(chosen))
        seen.append(((out * std + mean) * 255).round().clamp(0, 255).to(torch.uint8))
    return images, seen


def draw(columns: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Columns of images (N, 3, H, W), each with a title, side by side."""
    tile = columns[-1][1].shape[-1]
    rows = len(columns[0][1])
    size = (len(columns) * (tile + _MARGIN) + 2 * _MARGIN, rows * (tile + _MARGIN) + _MARGIN + _LINE)
    sheet = Image.new("RGB", size, "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, (title, images) in enumerate(columns):
        left = _MARGIN + column * (tile + _MARGIN) + (_MARGIN if column else 0)
        words = title.split()
        title = title if font.getlength(title) <= tile else words[-1] if font.getlength(words[-1]) <= tile else ""
        text.text((left, 3), title, fill="black", font=font)
        for row, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            picture = Image.fromarray(np.ascontiguousarray(image)).resize((tile, tile), Image.Resampling.BILINEAR)
            sheet.paste(picture, (left, _LINE + row * (tile + _MARGIN)))
    return sheet


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(TransformsSettings, "transforms", argv)
    stored, seen = augmented(settings)
    sheet = draw([("stored", stored), *((f"epoch {epoch}", images) for epoch, images in enumerate(seen))])
    stream = BytesIO()
    sheet.save(stream, Image.registered_extensions()[settings.out.suffix.lower()])
    with writing(settings.out, "or choose another file"):
        write_atomically(settings.out, stream.getvalue())
    print(settings.out)


if __name__ == "__main__":
    exit_with(main)
