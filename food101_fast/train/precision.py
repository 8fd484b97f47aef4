"""Mixed precision and the rule by which a step without finite gradients is skipped."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

# So far from 1 that small gradients of fp16 do not vanish; torch's own default. The others need no scale.
_FP16_SCALE = 2.0**16


class Precision:
    """Mixed precision as the recipe asks for it: the autocast context and the gradient scaler.

    The scaler also runs without fp16, with a scale of 1: its rule, to leave a step out whose gradients are not finite,
    is wanted everywhere, and with a fused optimiser it is followed on the device, without waiting for it.

    Args:
        amp: `fp16`, `bf16`, `off` (float32), or `auto`: fp16 on CUDA and off elsewhere.
        device: where it is computed.

    Attributes:
        dtype: in which matrices are multiplied.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            amp = "fp16" if device.type == "cuda" else "off"
        self._device = device.type
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}[amp]
        self.dtype = self._dtype or torch.float32
        self.scales = amp == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, init_scale=_FP16_SCALE if self.scales else 1.0)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which a forward pass runs."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, self._dtype)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser step, unless a gradient is not finite, and choose the scale of the next step.

        The gradients must have been unscaled with `scaler.unscale_`.
        """
        self.scaler.step(optimizer)
        self.scaler.update(None if self.scales else 1.0)
