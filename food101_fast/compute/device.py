"""The device that a command computes on, and a description of the machine."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from food101_fast.compute.distributed import local_rank
from food101_fast.errors import UserError
from food101_fast.processes import usable_cores

Device = Literal["auto", "cpu", "cuda"]


def choose_device(device: Device) -> torch.device:
    """The device that `--device` names; `auto` is CUDA where there is one; under torchrun the rank's own GPU.

    Raises:
        UserError: `cuda` without a CUDA device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or install a driver and a CUDA build"
        )
    return torch.device(device, local_rank()) if device == "cuda" else torch.device(device)


def set_up_device(device: torch.device, *, tf32: bool, cudnn_benchmark: bool = True) -> None:
    """Set torch's global options for training on a CUDA device; does nothing for others.

    Args:
        device: becomes the current one.
        tf32: whether CUDA may multiply float32 with 10 bits of mantissa.
        cudnn_benchmark: whether cuDNN measures algorithms for each new shape, and keeps the fastest.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware and system that a run or a measurement used."""

    device: str
    """Name of the GPU, or `cpu`."""
    processor: str
    cores: int
    """Cores that this process may use."""
    torch_threads: int
    """Threads of torch's CPU operations."""
    system: str
    """Name and version of the operating system."""


def machine(device: torch.device) -> Machine:
    """The machine of this process.

    Args:
        device: that is computed on.
    """
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processor=_processor(),
        cores=usable_cores(),
        torch_threads=torch.get_num_threads(),
        system=platform.platform(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
