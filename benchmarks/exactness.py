"""How far a batch at once, as on a GPU, is from torchvision image by image, on real photographs, in steps of 1 / 255.

    python benchmarks/exactness.py --shards DIR [--json FILE]

Image by image is torchvision's own functional with the same parameters, to the bit, which the tests check. Then ways to
crop and resize each image at its own position are compared, by their speed and by how far they are from torchvision.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from environments import ENVIRONMENTS, HERE, environment, reported
from published import Measurement
from torch import Tensor

from food101_fast import transforms as T
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards import ShardSet
from food101_fast.transforms.geometry import resized_crop_products

RESIZE = HERE / "resize.py"

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
    "AutoAugment": T.AutoAugment(),
    "AugMix": T.AugMix(),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How far a batch at once is from torchvision image by image."""

    shards: str
    """Folder of shards."""
    images: int = 400
    """Photographs to compare."""
    resized: int = 64
    """Of them, those that ways to resize are timed on."""
    repetitions: int = 7
    """Repetitions of that, after one that is not counted."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where ways to resize are compared; transforms are compared on the CPU."""
    envs: Path | None = ENVIRONMENTS
    """Folder for kornia's environment; kept for the next run. None: what is installed beside this project."""
    json: Path | None = None
    """File to write the results to."""


def error(got: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest difference, and share of values that differ by more than one step, in steps of 1 / 255."""
    steps = (got.double() - expected.double()).abs() * (255 if expected.is_floating_point() else 1)
    return {"largest": steps.max().item(), "share_above_one": (steps > 1.001).double().mean().item()}


def resizes(images: Tensor, settings: Settings) -> dict[str, Any]:
    """Errors and rates of ways to resize; kornia's is left out where it can't be installed."""
    try:
        python = environment(RESIZE, settings.envs)
    except UserError as reason:
        print(f"kornia {reason}", file=sys.stderr)
        python = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.pt"
        torch.save(images.contiguous(), file)
        return reported(
            RESIZE, python, {"images": file, "device": settings.device, "repetitions": settings.repetitions}
        )


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/exactness", argv)
    if min(settings.images, settings.resized, settings.repetitions) < 1:
        raise UserError("--images, --resized and --repetitions should be at least 1")
    measurement = Measurement(settings.json, settings.device)
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
            boxes: dict[str, Any] = params
            halves = resized_crop_products(floating, **boxes, size=(160, 160), compute=torch.float16)
            results[name]["float16"] = error(halves, transform.one_by_one(floating, params))
    print(f"{'':<42}{'uint8':>8}{'above 1':>10}{'float32':>10}{'float16':>10}")
    for name, of in results.items():
        half = f"{of['float16']['largest']:.4f}" if "float16" in of else ""
        share = f"{of['uint8']['share_above_one']:.5%}"
        print(f"{name:<42}{of['uint8']['largest']:>8.0f}{share:>10}{of['float32']['largest']:>10.4f}{half:>10}")
    resizing = resizes(images[: settings.resized], settings)
    print(f"\n{'crop and resize to 160 px, float32':<42}{'largest':>10}{'mean':>10}{'images/s':>12}")
    for name, of in resizing["errors"].items():
        rate = statistics.median(resizing["images_per_second"][name])
        print(f"{name:<42}{of['largest']:>10.4f}{of['mean']:>10.4f}{rate:>12,.0f}")
    chosen_settings = {name: getattr(settings, name) for name in ("images", "resized", "repetitions", "device")}
    measurement.publish(chosen_settings, images=len(chosen), errors=results, resizing=resizing)


if __name__ == "__main__":
    exit_with(main)
