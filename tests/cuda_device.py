"""What tests on a CUDA device share. Their bodies run on the CPU, too, where that shows anything."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from food101_fast.compute.device import set_up_device

needs_cuda = pytest.mark.cuda

DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]

harmless_warnings = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        # The thread of a first backward pass has no CUDA context yet, and makes one.
        "Attempting to run cuBLAS:UserWarning",
        # Inductor's, when a compiled model is validated between two training steps.
        "Unable to hit fast path of CUDAGraphs:UserWarning",
        # Python 3.12's, about processes that the compiler starts.
        "This process .* is multi-threaded, use of fork:DeprecationWarning",
        # Of torch 2.11: about a graph that it captures to begin a pool of memory, and by its autotuning about itself.
        "The CUDA Graph is empty:UserWarning",
        "TypedStorage is deprecated:UserWarning",
        # DDP's, about gradients of 1 x 1 convolutions: both layouts are the same memory.
        "Grad strides do not match bucket view strides:UserWarning",
    )
]
"""Of torch on a CUDA device, in some of its versions. In this project's tests every other warning is an error."""


def chosen(device: str) -> torch.device:
    """The device, set up as a run does it; without that Inductor warns that TF32 is off."""
    found = torch.device("cuda", 0) if device == "cuda" else torch.device(device)
    set_up_device(found, tf32=True)
    return found


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """In here torch raises an error where the host waits for a CUDA device. On the CPU this checks nothing."""
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        # Said once in a process.
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
