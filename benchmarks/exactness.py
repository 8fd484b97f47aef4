"""How far a batch at once, as on a GPU, is from torchvision image by image, on real photographs, in steps of 1 / 255.

    python benchmarks/exactness.py --shards DIR [--json FILE]

Image by image is torchvision's own functional with the same parameters, to the bit, which the tests check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from food101_fast import transforms as T
from food101_fast.cli import exit_with, parse
from food101_fast.shards import ShardSet
from food101_fast.shards.folder import write_atomically
from food101_fast.train.device import machine
from food101_fast.train.run import versions
from food101_fast.transforms.geometry import resized_crop_products

TRANSFORMS: dict[str, T.PerSampleTransform] = {
    "RandomResizedCrop": T.RandomResizedCrop(160),
    "RandomResizedCrop, bicubic": T.RandomResizedCrop(160, interpolation="bicubic"),
    "RandomHorizontalFlip, RandomVerticalFlip": T.RandomHorizontalFlip(),
    "RandomRotation, nearest": T.RandomRotation(30),
    "RandomRotation, bilinear": T.RandomRotation(30, interpolation="bilinear"),
    "RandomAffine, bilinear": T.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), 5, interpolation="bilinear"),
    "RandomPerspective": T.RandomPerspective(p=1.0),
    "ColorJitter": T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "RandomGrayscale": T.RandomGrayscale(1.0),
    "GaussianBlur": T.GaussianBlur(9),
    "RandomErasing": T.RandomErasing(1.0),
    "TrivialAugmentWide": T.TrivialAugmentWide(),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How far a batch at once is from torchvision image by image."""

    shards: str
    """Folder of shards."""
    images: int = 400
    """Photographs to compare."""
    json: Path | None = None
    """File to write the results to."""


def error(got: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest difference, and share of values that differ by more than one step, in steps of 1 / 255."""
    steps = (got.double() - expected.double()).abs() * (255 if expected.is_floating_point() else 1)
    return {"largest": steps.max().item(), "share_above_one": (steps > 1.001).double().mean().item()}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/exactness", argv)
    split = ShardSet.open(settings.shards).split("train")
    chosen = np.random.default_rng(0).permutation(len(split))[: settings.images]
    pixels = np.stack([split[int(sample)] for sample in chosen])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    floating = images.float() / 255
    torch.manual_seed(0)
    results: dict[str, dict[str, Any]] = {}
    for name, transform in TRANSFORMS.items():
        params = transform.make_params([images])
        results[name] = {
            kind: error(transform.at_once(batch, params), transform.one_by_one(batch, params))
            for kind, batch in (("uint8", images), ("float32", floating))
        }
        if name == "RandomResizedCrop":
            halves = resized_crop_products(floating, **params, size=(160, 160), compute=torch.float16)
            results[name]["float16"] = error(halves, transform.one_by_one(floating, params))
    print(f"{'':<42}{'uint8':>8}{'above 1':>10}{'float32':>10}{'float16':>10}")
    for name, of in results.items():
        half = f"{of['float16']['largest']:.4f}" if "float16" in of else ""
        share = f"{of['uint8']['share_above_one']:.5%}"
        print(f"{name:<42}{of['uint8']['largest']:>8.0f}{share:>10}{of['float32']['largest']:>10.4f}{half:>10}")
    if settings.json is not None:
        document = {
            "version": 1,
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "images": len(chosen),
            "errors": results,
        }
        write_atomically(settings.json, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    exit_with(main)
