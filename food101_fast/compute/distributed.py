"""The ranks of a run under torchrun. With one rank every operation here is free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank in a run, and what the ranks compute together."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of ranks."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, as a new tensor. For integers it does not depend on the number of ranks."""
        result = tensor.clone()
        if self.size > 1:
            dist.all_reduce(result)
        return result

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank. Every rank must call this in the same step."""
        if self.size == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return [bool(number) for number in numbers.tolist()]

    def least(self, number: int) -> int:
        """The smallest of all ranks' numbers."""
        numbers = torch.tensor([number])
        if self.size > 1:
            dist.all_reduce(numbers, dist.ReduceOp.MIN)
        return int(numbers.item())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Copy the main rank's values to all ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            dist.barrier()


def local_rank() -> int:
    """Number of this process on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """A context in which this process is a rank of the world that torchrun's environment variables describe.

    Args:
        device: of the tensors that ranks exchange: through NCCL for CUDA, through gloo for the CPU (and for flags).
    """
    if dist.is_available() and dist.is_initialized():  # by a program that calls `train`
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
