"""Mixed precision and the rule by which a step without finite gradients is skipped."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}

# So far from 1 that small gradients of fp16 do not vanish; torch's own default. The others need no scale.
_FP16_SCALE = 2.0**16


def chosen_amp(amp: str, device: torch.device) -> str:
    """What a recipe's `amp` stands for on a device: `fp16`, `bf16` or `off`.

    Args:
        amp: one of these, or `auto`: fp16 on CUDA; bf16 on a CPU that multiplies bf16 matrices in hardware (Intel AMX),
            where ResNet-18 trained 1.6 to 2.7 times as fast as in float32; off elsewhere, since a CPU without such
            units emulates bf16 and is far slower.
        device: where it is computed.
    """
    if amp != "auto":
        return amp
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and _multiplies_bf16() else "off"


def inference_precision(amp: str, device: torch.device) -> Precision:
    """The precision in which a trained model is used: as trained, but `auto` is float32 on every CPU.

    There bf16 changed 32 of 200 predictions of a MobileNetV2 that was fine-tuned for three epochs, so results would
    depend on the processor, and would not be those of the exported model.

    Args:
        amp: of the run's recipe.
        device: where it is computed.
    """
    return Precision("off" if amp == "auto" and device.type == "cpu" else amp, device)


def _multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware, and oneDNN may use that."""
    # A limit that the user has set, such as AVX2; see "CPU Dispatcher Control" in the documentation of oneDNN.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if "AMX" not in limit and limit not in ("DEFAULT", "ALL"):
        return False
    # Not public in torch 2.9 to 2.14; where it is missing, float32 is right and only slower.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported() and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Precision:
    """Mixed precision as the recipe asks for it: the autocast context and the gradient scaler.

    The scaler also runs without fp16, with a scale of 1: its rule, to leave a step out whose gradients are not finite,
    is wanted everywhere, and with a fused optimizer it is followed on the device, without waiting for it.

    Args:
        amp: `fp16`, `bf16`, `off` (float32), or `auto`; see `chosen_amp`.
        device: where it is computed.

    Attributes:
        amp: `fp16`, `bf16` or `off`.
        dtype: in which matrices are multiplied.
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
        """`fp16`, `bf16` or `float32`, for people."""
        return "float32" if self.amp == "off" else self.amp

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which a forward pass runs."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, self._dtype)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step, unless a gradient is not finite, and choose the scale of the next step.

        The gradients must have been unscaled with `scaler.unscale_`.
        """
        self.scaler.step(optimizer)
        self.scaler.update(None if self.scales else 1.0)
