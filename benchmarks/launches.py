"""Kernels that each preset launches for a batch on CUDA, uncompiled; counted without a GPU.

    python benchmarks/launches.py [--batch-size 128] [--operators 10]

The presets run on fake tensors (`FakeTensorMode`) that say they are on CUDA: the same code runs, and nothing is
computed. Every operator that torch dispatches and that writes a tensor on the device counts as one launch. Views count
nothing. A few operators launch more than one kernel (a sort, a sum over a large tensor), so that the true count is
slightly higher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from food101_fast.cli import exit_with, parse
from food101_fast.transforms import PRESETS, eval_preset, train_preset

CLASSES = 101
STORED, SEEN = 192, 160

_NO_KERNEL = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
)
"""Operators that return new tensors, or the same ones, and compute nothing."""


class LaunchCounter(TorchDispatchMode):
    """Counts operators that write tensors on CUDA while it is active.

    Attributes:
        launches: by operator, such as `aten.mul.Tensor`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        # Operators such as `_foreach_add_` return nothing and write into their first argument.
        written = tree_leaves(out) if func._schema.returns else tree_leaves(args[:1])
        on_device = any(isinstance(value, Tensor) and value.is_cuda for value in written)
        if on_device and not is_view and func._schema.name.partition("::")[2] not in _NO_KERNEL:
            self.launches[str(func)] += 1
        return out


def fake_cuda() -> FakeTensorMode:
    """A context in which tensors on CUDA can be made without CUDA, and modules moved there."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def count_launches(run: Callable[[], object]) -> Counter[str]:
    """How often each operator is launched by `run`, called inside `fake_cuda()`, with what was made there."""
    counter = LaunchCounter()
    with counter:
        run()
    return counter.launches


def preset_launches(batch_size: int) -> dict[str, Counter[str]]:
    """By preset what it launches for a batch of images from the loader, on its second call."""
    presets = {name: train_preset(name, SEEN, num_classes=CLASSES) for name in PRESETS}
    presets["eval"] = eval_preset(SEEN, STORED)
    counted = {}
    with fake_cuda():
        images = torch.empty(batch_size, 3, STORED, STORED, dtype=torch.uint8, device="cuda")
        images = images.contiguous(memory_format=torch.channels_last)
        ids = torch.arange(batch_size, device="cuda")
        labels = ids % CLASSES
        epoch = torch.zeros((), dtype=torch.int64, device="cuda")
        for name, preset in presets.items():
            preset.to("cuda")

            def run(preset: Any = preset) -> None:
                preset(images, labels, seed=0, epoch=epoch, ids=ids)

            run()
            counted[name] = count_launches(run)
    return counted


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Kernels that each preset launches for a batch."""

    batch_size: int = 128
    """Images per batch; the count does not depend on it."""
    operators: int = 0
    """How many of the operators that are launched most often to list."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/launches", argv)
    for name, launches in preset_launches(settings.batch_size).items():
        print(f"preset {name:<10}{launches.total():>6} launches")
        for operator, count in launches.most_common(settings.operators):
            print(f"    {operator:<34}{count:>6}")


if __name__ == "__main__":
    exit_with(main)
