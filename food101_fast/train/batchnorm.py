"""BatchNorm: batches that are too small for it, and the buffers of all its layers in one tensor, for one kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from food101_fast.errors import UserError
from food101_fast.runs.recipe import Recipe

_COUNTER = "num_batches_tracked"


def refuse_single_images(model: nn.Module, recipe: Recipe, world_size: int) -> None:
    """Refuse batches in which a BatchNorm layer would see one image: it would have no variance to normalize with.

    Args:
        model: not yet converted to SyncBatchNorm.
        recipe: with the batch size.
        world_size: number of ranks.

    Raises:
        UserError: a forward pass in training has one image, and the model has BatchNorm layers.
    """
    images = recipe.chunk_size(world_size) * (world_size if recipe.sync_batchnorm else 1)
    if images > 1 or recipe.freeze_batchnorm or not any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        return
    divisors = {f"{world_size} ranks": world_size, f"--accumulate {recipe.accumulate}": recipe.accumulate}
    divided = " and ".join(name for name, divisor in divisors.items() if divisor > 1)
    raise UserError(
        f"--batch-size {recipe.batch_size}, divided by {divided}, gives the BatchNorm layers of {recipe.model} one "
        f"image at a time, and they need several; use --batch-size {2 * world_size * recipe.accumulate} or more"
        + (" or a smaller --accumulate" if recipe.accumulate > 1 else "")
    )


def flattened(buffers: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Move buffers into one flat tensor, and make them views of it.

    Args:
        buffers: of the same dtype, on the same device.
        dtype: of the buffers.
        device: of the buffers.

    Returns:
        A tensor (n,) of all their elements, in their order.
    """
    whole = torch.cat([torch.empty(0, dtype=dtype, device=device), *(buffer.flatten() for buffer in buffers)])
    for buffer, view in zip(buffers, torch.split(whole, [buffer.numel() for buffer in buffers]), strict=True):
        buffer.data = view.view(buffer.shape)
    return whole


class BatchCounters:
    """The `num_batches_tracked` of a model's BatchNorm layers, all counted by one kernel.

    torch's layers add 1 to a counter of their own in every forward pass: 52 of the few hundred kernel launches of a
    MobileNetV2. The number is stored with the weights, and only a layer without `momentum` computes with it. Such a
    layer keeps counting by itself. So does SyncBatchNorm, which needs its counter.

    Args:
        model: on `device`.
        device: of the model.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, _BatchNorm)
            and not isinstance(layer, nn.SyncBatchNorm)
            and layer.num_batches_tracked is not None
            and layer.momentum is not None
        ]
        self._counters = [layer._buffers[_COUNTER] for layer in self._layers]
        self._counts = flattened([c for c in self._counters if c is not None], torch.int64, device)
        self.read_modes()

    def read_modes(self) -> None:
        """Read which layers are in training mode; call it when that changes."""
        training = torch.tensor([int(layer.training) for layer in self._layers], dtype=torch.int64)
        self._training = training.to(self._counts.device)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """A context for one forward pass in training mode."""
        for layer in self._layers:
            layer._buffers[_COUNTER] = None
        try:
            yield
        finally:
            for layer, counter in zip(self._layers, self._counters, strict=True):
                layer._buffers[_COUNTER] = counter
        self._counts += self._training
