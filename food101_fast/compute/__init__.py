"""Where and how a model is computed: device, ranks, mixed precision, and its logits over a loader."""

from food101_fast.compute.device import Device, choose_device
from food101_fast.compute.distributed import World
from food101_fast.compute.logits import predict
from food101_fast.compute.precision import Precision

__all__ = ["Device", "Precision", "World", "choose_device", "predict"]
