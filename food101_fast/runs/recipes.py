"""The recipes that `train --recipe` knows by name."""

from __future__ import annotations

from food101_fast.runs.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    "baseline": Recipe(),
    # Augmentation, smoothing and decay as in torchvision's own recipe for its second ImageNet weights, with a learning
    # rate for fine-tuning.
    "strong": Recipe(
        model="resnet50",
        image_size=224,
        preset="trivial",
        label_smoothing=0.1,
        epochs=20,
        batch_size=256,
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.05,
        clip_norm=1.0,
        ema_decay=0.999,
        patience=None,
    ),
    "fast": Recipe(
        start_size=96,
        label_smoothing=0.1,
        epochs=4,
        batch_size=256,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.01,
        layer_decay=0.9,
        patience=None,
    ),
    "unfreeze": Recipe(
        label_smoothing=0.1,
        epochs=8,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=0.01,
        layer_decay=0.85,
        unfreeze_epochs=4,
        patience=None,
    ),
    # A linear classifier on features of the backbone. Its result says how well a backbone suits the data.
    "probe": Recipe(method="probe"),
    # From random weights, small and short: for a CPU and about a thousand images.
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
