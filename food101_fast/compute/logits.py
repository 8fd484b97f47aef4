"""Logits of a model for every sample of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from food101_fast.compute.precision import Precision
from food101_fast.loader import ShardLoader
from food101_fast.transforms import Preset

Model = Callable[[Tensor], Tensor]
"""Maps images, float (N, 3, h, w), to logits, float (N, classes)."""


def predict(
    model: Model, loader: ShardLoader, preset: Preset, precision: Precision
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of every batch: yields logits (N, classes, float32), labels (N,) and ids (N,), on the loader's device.

    A smaller last batch is padded, and the logits of the padding are dropped. Otherwise a sample's logits would depend
    on the number of ranks, since kernels may round differently for another batch size, and a compiled model would need
    a second graph.

    Args:
        model: in evaluation mode.
        loader: of each sample once.
        preset: of evaluation, on the loader's device.
        precision: to compute the model in.
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
