"""Recipes: all that decides what a run computes. Each field is a flag of `train` and is stored with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from food101_fast.errors import UserError
from food101_fast.transforms import PRESETS

Amp = Literal["auto", "fp16", "bf16", "off"]
Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. The defaults are the recipe `baseline`: an ImageNet MobileNetV2, fine-tuned whole at 160 px."""

    model: str = "mobilenet_v2"
    """Any torchvision classification model, by its name in torchvision.models."""
    weights: str = "DEFAULT"
    """Where the weights start: the name of torchvision weights, a file (.safetensors or .pth), or none."""
    image_size: int = 160
    """Height and width that the model sees, in pixels."""
    preset: str = "baseline"
    """Augmentation of the training images: baseline (random crop and flip), strong (also rotation, colour, affine,
    erasing), or trivial (crop, flip, TrivialAugmentWide, erasing, MixUp or CutMix)."""
    epochs: int = 7
    """Times that every training image is seen, at the most."""
    batch_size: int = 128
    """Images in one step."""
    learning_rate: float = 5e-5
    """Adam's learning rate in the first epoch."""
    lr_gamma: float = 0.98
    """Factor on the learning rate after each epoch; the default goes from 5e-5 to 4.4e-5 in the seventh epoch."""
    patience: int = 3
    """Stop after this many epochs without a better validation accuracy."""
    amp: Amp = "auto"
    """Mixed precision: fp16 (with gradient scaling), bf16 or off (float32); auto is fp16 on CUDA and off on the CPU."""
    compile: Compile = "auto"
    """torch.compile for the training step; auto is on for CUDA and off on the CPU."""
    window: int | None = None
    """Images that are shuffled among each other; by default all. A smaller window needs only the shards of three
    windows at a time, on the disk and in memory: for data sets behind a URL that are larger than the disk."""
    seed: int = 0
    """Decides initial weights, the order of the images and their augmentation."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"--preset {self.preset!r} should be one of: {', '.join(PRESETS)}")
        for flag, value, least in (
            ("--image-size", self.image_size, 32),
            ("--epochs", self.epochs, 1),
            ("--batch-size", self.batch_size, 2),
            ("--patience", self.patience, 1),
            ("--seed", self.seed, 0),
            ("--window", self.batch_size if self.window is None else self.window, self.batch_size),
        ):
            if value < least:
                raise UserError(f"{flag} {value} should be at least {least}")
        if not 0 < self.learning_rate < float("inf") or not 0 < self.lr_gamma <= 1:
            raise UserError(
                f"--learning-rate {self.learning_rate} should be above 0, and --lr-gamma {self.lr_gamma} "
                "above 0 and at most 1"
            )


RECIPES: dict[str, Recipe] = {
    "baseline": Recipe(),
    # From scratch, small and short: for a CPU and about a thousand images.
    "demo": Recipe(
        model="resnet18",
        weights="none",
        image_size=64,
        epochs=6,
        batch_size=32,
        learning_rate=1e-3,
        lr_gamma=0.65,
        patience=6,
    ),
}
