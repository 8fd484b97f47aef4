"""What a model says about every sample of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from food101_fast.compute.precision import Precision
from food101_fast.loader import ShardLoader
from food101_fast.transforms import Preset

Model = Callable[[Tensor], Tensor]
"""Images (N, 3, h, w) to logits (N, classes)."""


def predict(
    model: Model, loader: ShardLoader, preset: Preset, precision: Precision
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of every batch: yields float32 (N, classes), labels (N,) and ids (N,), on the loader's device.

    A smaller last batch is filled up, and what that adds is left out: kernels may round otherwise for another size, so
    that a sample's logits would depend on the number of ranks, and a compiled model would need another graph.

    Args:
        model: in evaluation mode.
        loader: that goes through each sample once.
        preset: of evaluation.
        precision: in which the model is computed.
    """
    for batch in loader:
        samples = len(batch.labels)
        if not samples:
            continue
        with torch.inference_mode(), precision.autocast():
            images = preset(batch.images, seed=0, epoch=0, ids=batch.ids)
            if samples < loader.batch_size:
                images = torch.cat([images, images[:1].expand(loader.batch_size - samples, -1, -1, -1)])
                images = images.contiguous(memory_format=torch.channels_last)
            logits = model(images)[:samples]
        yield logits.float(), batch.labels, batch.ids
