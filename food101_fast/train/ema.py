"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ModelAverage:
    """The average of a model's weights and running statistics over the steps.

    An update does not wait for the device. torch's `AveragedModel` does, to learn whether the update is the first.

    Source: Polyak and Juditsky (1992); the rising decay is that of TensorFlow's `ExponentialMovingAverage`.

    Args:
        model: whose weights are averaged; the average starts with them.
        decay: weight of the old average in an update, between 0 and 1. At update t, counted from 1, it is at most
            (1 + t) / (10 + t).

    Attributes:
        model: a model with the averaged weights, in evaluation mode.
        updates: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averages, self._sources = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters, self._counted = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    def next_weight(self) -> float:
        """Count an update; returns the model's weight in it."""
        self.updates += 1
        return 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def move(self, weight: float | Tensor) -> None:
        """Move the average towards the model. Integer buffers are copied.

        Args:
            weight: the model's weight, from `next_weight`: a number, or float32 () on the device.
        """
        if isinstance(weight, Tensor):
            differences = torch._foreach_sub(self._sources, self._averages)
            torch._foreach_mul_(differences, weight)
            torch._foreach_add_(self._averages, differences)
        else:
            torch._foreach_lerp_(self._averages, self._sources, weight)
        if self._counters:
            torch._foreach_copy_(self._counters, self._counted)

    def update(self) -> None:
        """`move` by `next_weight`."""
        self.move(self.next_weight())


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [average for average, _ in pairs], [source for _, source in pairs]
