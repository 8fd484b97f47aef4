"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelAverage:
    """The average of a model's weights and running statistics over the steps.

    Updated without waiting for the device, which torch's `AveragedModel` does in each step to see whether it is the
    first.

    Source: Polyak and Juditsky (1992); the rising decay is that of TensorFlow's `ExponentialMovingAverage`.

    Args:
        model: where the average starts.
        decay: share of the average that each update leaves, between 0 and 1; at update t, counted from 1, it is at most
            (1 + t) / (10 + t).

    Attributes:
        model: a model with the averaged weights, in evaluation mode.
        updates: how many there were.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averages, self._sources = map(list, zip(*(p for p in pairs if p[0].is_floating_point()), strict=True))
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self) -> None:
        """Move the average towards the model; what is not a floating number is copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
            self._averages, self._sources, None
        )
        for average, source in self._counters:
            average.copy_(source)
