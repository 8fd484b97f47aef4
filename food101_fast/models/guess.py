"""Which known model weights belong to, by the shapes of their tensors.

`known_models.txt` has a fingerprint of each classification model of torchvision and timm, written by
benchmarks/known_models.py: building them all would take minutes. The few models with the same fingerprint are built
without memory for their weights, and compared name by name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from food101_fast.errors import UserError
from food101_fast.models.backbone import Backbone
from food101_fast.models.checkpoint_files import StateDict
from food101_fast.models.layers import head_of
from food101_fast.models.libraries import library_of
from food101_fast.models.matching import Target, matches

TABLE = "known_models.txt"
_MOST_COMPARED = 4
_MOST_NAMED = 3
_CLASSES = 1000  # of the head of a network that is only compared


def guess(states: Sequence[StateDict], file: str) -> list[str]:
    """Names of the models that weights may belong to, the best guess first; none if no model fits.

    Args:
        states: all state dicts of a file.
        file: its name. Some models have the same layers, and one whose name is in the file's comes first.
    """
    stem = PurePosixPath(file.partition("?")[0]).name

    def order(name: str) -> tuple[int, bool, int, str]:
        bare = name.rpartition("/")[2]
        return -len(bare) if bare in stem else 0, name != bare, len(bare), bare

    names: set[str] = set()
    for shapes in (shapes for state in states for shapes in _networks(state.tensors)):
        # A file may have a head or none, and which of its tensors that is can't be known: each is tried.
        whole = fingerprint(shapes)
        without = {(whole - fingerprint([shape])) % (1 << 64) for shape in shapes}
        names |= {name for value in (whole, *without) for name in known_models().get(value, ())}
    ordered = sorted(names, key=order)[:_MOST_COMPARED]
    shares = {name: _share(name, states) for name in ordered}
    best = max(shares.values(), default=0.0)
    return [name for name in ordered if shares[name] == best][:_MOST_NAMED]


def _networks(tensors: Mapping[str, Tensor]) -> Iterable[list[tuple[int, ...]]]:
    """Shapes in a state dict: of all tensors, and of those in each outermost module, which may be a whole network."""
    outer: dict[str, list[tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        outer.setdefault(name.partition(".")[0], []).append(tuple(tensor.shape))
    yield [shape for shapes in outer.values() for shape in shapes]
    yield from outer.values()


def _share(name: str, states: Sequence[StateDict]) -> float:
    """The share of a model's backbone that fits, between 0 and 1; 1 if the model can't be built here."""
    try:
        target = Target(without_memory(name))
    except (UserError, RuntimeError, NotImplementedError):  # its library is not installed, or needs values
        return 1.0
    return max(match.share for state in states for match in matches(target, state))


def fingerprint(shapes: Iterable[Sequence[int]]) -> int:
    """A number of 64 bits that all models with the same layers have: the sum of a hash of each weight's shape.

    Biases and normalization layers do not count, and neither do position embeddings, which depend on the image size.
    """
    hashes = (xxhash.xxh3_64_intdigest(str(tuple(shape)).encode()) for shape in shapes if len(shape) in (2, 4))
    return sum(hashes) % (1 << 64)


def fingerprint_of(model: nn.Module) -> int:
    """The fingerprint of a model without its last layer."""
    head = f"{head_of(model)[0]}.weight"
    return fingerprint(tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != head)


@functools.cache
def known_models() -> dict[int, tuple[str, ...]]:
    """Names of models by their fingerprint; those of timm begin with `timm/`."""
    lines = resources.files(__package__).joinpath(TABLE).read_text().splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {int(digits, 16): tuple(names) for digits, *names in rows}


def without_memory(name: str) -> nn.Module:
    """A network whose large tensors have shapes only.

    Raises:
        UserError: no library has it.
        RuntimeError, NotImplementedError: it computes with its weights while it is built.
    """
    with EmptyWeights():
        return library_of(name).network(Backbone(name=name), "none", _CLASSES)


class EmptyWeights(TorchFunctionMode):
    """A context in which weights are on the meta device, and are not initialized."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**kwargs, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
