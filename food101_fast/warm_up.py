"""CUDA's libraries, loaded in a thread of their own while a command imports the rest of the package.

The first convolutions of a process load cuDNN and cuBLAS, hundreds of megabytes. Imports take as long, and are Python's
work alone, so both go on beside each other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Mapping, Sequence

_COMMANDS = ("train", "evaluate", "predict")
# These compute nothing, or not on CUDA.
_WITHOUT_CUDA = {"-h", "--help", "--print-recipe", "--device=cpu"}


def warm_up_cuda(
    command: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> threading.Thread | None:
    """Begin to load CUDA's libraries if a command will need them; it does not wait for them.

    Imports torch, so OpenMP must have been set up.

    Args:
        command: its name, such as `train`.
        arguments: of the command.
        environment: torchrun's `LOCAL_RANK` is the number of the GPU.

    Returns:
        The thread that loads them, for which the process waits when it ends; None if they are not needed.
    """
    asks_for_cpu = ("--device", "cpu") in itertools.pairwise(arguments)
    if command not in _COMMANDS or asks_for_cpu or not _WITHOUT_CUDA.isdisjoint(arguments):
        return None
    import torch  # here, where its settings have been made

    if not torch.cuda.is_available():
        return None
    number = int(environment.get("LOCAL_RANK", "0"))
    # No daemon: one that is within CUDA when Python ends can abort the process.
    thread = threading.Thread(target=_use_cuda, args=(number,), name="warm-up")
    thread.start()
    return thread


def _use_cuda(number: int) -> None:
    """Do once, on little data, what a training step does: convolutions of all kinds, forward and backward."""
    import torch
    from torch.nn import functional

    # Without memory or with a broken driver the command itself will fail, and say why.
    with contextlib.suppress(RuntimeError):
        made = {"device": torch.device("cuda", number), "dtype": torch.float16}
        images = torch.zeros(8, 16, 16, 16, **made).contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        wide, deep, point = (
            torch.zeros(shape, **made).requires_grad_()  # type: ignore[call-overload]
            for shape in ((16, 16, 3, 3), (16, 1, 3, 3), (16, 16, 1, 1))
        )
        features = functional.conv2d(images, wide, padding=1)
        features = functional.conv2d(features, deep, padding=1, groups=16)
        features = functional.conv2d(features, point).mean(dim=(2, 3))
        logits = functional.linear(features, point.flatten(1))
        logits.float().sum().backward()  # type: ignore[no-untyped-call]
