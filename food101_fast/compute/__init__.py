"""Where and how a model is computed: the device, the ranks of a run, mixed precision, and logits over a loader."""

from food101_fast.compute.device import Device, choose_device
from food101_fast.compute.distributed import World
from food101_fast.compute.logits import predict
from food101_fast.compute.precision import Precision

__all__ = ["Device", "Precision", "World", "choose_device", "predict"]
