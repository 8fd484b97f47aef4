"""Validation: loss and accuracy of a model over a loader."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.compute.distributed import World
from food101_fast.compute.logits import Model, predict
from food101_fast.compute.precision import Precision
from food101_fast.loader import ShardLoader
from food101_fast.transforms import Preset

# Losses are summed as whole multiples of this: such sums are exact and do not depend on the order.
LOSS_UNIT = 2.0**-30
_LARGEST_LOSS = 2.0**12  # nats; two million of these can be summed in int64


def eval_twin(model: nn.Module) -> nn.Module:
    """A second module with the same weights and buffers in memory, always in evaluation mode and never trained.

    It sees every later change of the model's weights. But its own `training` and `requires_grad` flags never change,
    which torch.compile checks before each call: the model itself would be compiled for validation again whenever other
    layers are trained.

    Args:
        model: whose weights must keep their memory, as they do in training steps.
    """
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, memo).eval()


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a model reached over all samples of a split."""

    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Accuracy, between 0 and 1."""
    top5: float
    """Share of samples whose class is among the five most probable, between 0 and 1."""


class FirstCall:
    """A function of images whose first call is timed, since torch.compile compiles then.

    Args:
        function: to call.

    Attributes:
        seconds: duration of the first call, including the device's work; 0 before.
    """

    def __init__(self, function: Model) -> None:
        self._function = function
        self._called = False
        self.seconds = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, h, w) to logits (N, classes)."""
        if self._called:
            return self._function(images)
        start = time.perf_counter()
        logits = self._function(images)
        if logits.device.type == "cuda":
            torch.cuda.synchronize(logits.device)
        self.seconds = time.perf_counter() - start
        self._called = True
        return logits


def validate(
    model: Model,
    loader: ShardLoader,
    preset: Preset,
    precision: Precision,
    *,
    world: World | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Validation | None:
    """Mean loss, top-1 and top-5 over all samples of a loader, of all ranks together.

    The device is waited for once, at the end. The sums are integers, so they are the same for any number of ranks.

    Args:
        model: in evaluation mode.
        loader: that yields each sample once.
        preset: of evaluation.
        precision: of the model.
        world: the ranks that share the samples.
        stopping: called after each batch; True interrupts validation.

    Returns:
        None if it was interrupted.
    """
    world = world or World()
    sums = torch.zeros(3, dtype=torch.int64, device=loader.device)
    for logits, labels, _ in predict(model, loader, preset, precision):
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        losses = functional.cross_entropy(logits, labels, reduction="none")
        sums += torch.stack([in_units(losses).sum(), best[:, 0].sum(), best.sum()])
        if stopping is not None and stopping():
            return None
    loss, top1, top5 = world.total(sums).tolist()
    samples = len(loader.split)
    return Validation(loss=loss * LOSS_UNIT / samples, top1=top1 / samples, top5=top5 / samples)


def in_units(losses: Tensor) -> Tensor:
    """Losses as whole multiples of `LOSS_UNIT`, int64; larger losses than 4,096 nats and NaN count as 4,096."""
    return (losses.double().nan_to_num(_LARGEST_LOSS).clamp(max=_LARGEST_LOSS) / LOSS_UNIT).round().long()
