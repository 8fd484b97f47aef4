"""Mixed precision, and skipping steps whose gradients are NaN or Inf."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}

# Large enough that small fp16 gradients do not become 0; torch's default. bf16 and float32 need no scale.
_FP16_SCALE = 2.0**16


def chosen_amp(amp: str, device: torch.device) -> str:
    """The precision that a recipe's `amp` means on a device: `fp16`, `bf16` or `off`.

    Args:
        amp: one of these, or `auto`: fp16 on CUDA; bf16 on a CPU that multiplies bf16 matrices in hardware (Intel AMX),
            where ResNet-18 trained 1.6 to 2.7 times as fast as in float32; off on other CPUs, which emulate bf16 and
            are far slower with it.
        device: to compute on.
    """
    if amp != "auto":
        return amp
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and _multiplies_bf16() else "off"


def inference_precision(amp: str, device: torch.device) -> Precision:
    """The precision for using a trained model: as in training, but `auto` is float32 on every CPU.

    On a CPU bf16 changed 32 of 200 predictions of a MobileNetV2 that was fine-tuned for three epochs. Results would
    depend on the processor, and differ from those of the exported model.

    Args:
        amp: of the run's recipe.
        device: to compute on.
    """
    return Precision("off" if amp == "auto" and device.type == "cpu" else amp, device)


def _multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware, and oneDNN is allowed to use it."""
    # The user may allow only AVX2, for example; see "CPU Dispatcher Control" in the documentation of oneDNN.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if "AMX" not in limit and limit not in ("DEFAULT", "ALL"):
        return False
    # Not public in torch 2.9 to 2.14. If it is missing, float32 is used, which is only slower.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported() and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Precision:
    """Mixed precision of a recipe: the autocast context and the gradient scaler.

    The scaler is also used without fp16, with a scale of 1, since it skips steps whose gradients are NaN or Inf. With a
    fused optimizer it does so on the device, and the host does not wait.

    Args:
        amp: `fp16`, `bf16`, `off` (float32), or `auto`; see `chosen_amp`.
        device: to compute on.

    Attributes:
        amp: `fp16`, `bf16` or `off`.
        dtype: of matrix multiplications.
        scales: whether gradients are scaled.
        scaler: torch's gradient scaler.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self.amp = chosen_amp(amp, device)
        self._device = device.type
        self._dtype = _DTYPES[self.amp]
        self.dtype = self._dtype or torch.float32
        self.scales = self.amp == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, init_scale=_FP16_SCALE if self.scales else 1.0)

    @property
    def name(self) -> str:
        """`fp16`, `bf16` or `float32`, for messages."""
        return "float32" if self.amp == "off" else self.amp

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, self._dtype)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do the optimizer's step, unless a gradient is NaN or Inf, and choose the scale of the next step.

        The gradients must have been unscaled with `scaler.unscale_` before.
        """
        self.scaler.step(optimizer)
        self.scaler.update(None if self.scales else 1.0)
