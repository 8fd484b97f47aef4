"""Which tensors of a file belong to which of a model: prefixes of wrappers, another head, other types of numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from food101_fast.models.checkpoint_files import StateDict
from food101_fast.models.layers import heads_of

# Modules around others: of DDP, torch.compile, FSDP and activation checkpointing. Some are within a model's names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What a head, or the module with its last layers, is called.
_HEAD_NAMES = {"fc", "head", "heads", "classifier", "head_dist", "last_linear"}
_COUNTER = "num_batches_tracked"  # BatchNorm's; not a weight, and many files do not have it
# What weights are, by a word in the names around them, in the order of preference: an average or a teacher (which is an
# average of its student) before all others, and last those that have an average, and the second encoder of MoCo.
_ORIGINS = (
    (re.compile(r"(?:^|[._])ema(?:$|[._])", re.IGNORECASE), "EMA weights in {}"),
    (re.compile(r"(?:^|[._])(?:swa|average|averaged|shadow)(?:$|[._])", re.IGNORECASE), "averaged weights in {}"),
    (re.compile(r"(?:^|[._])teacher(?:$|[._])", re.IGNORECASE), "teacher's weights in {}"),
)
_SECOND = re.compile(r"(?:^|[._])(?:student|encoder_k|momentum_encoder|current_model_state)(?:$|[._])", re.IGNORECASE)
_PLAIN_RANK = len(_ORIGINS)
# Prefixes of a state dict that are tried: a teacher's, a student's, an average's.
_MOST_PREFIXES = 6


class Target:
    """The tensors of a model that a file may have.

    Attributes:
        own: its state dict.
        head: names of the tensors of its last layer, or layers, which have an output for each class.
    """

    def __init__(self, model: nn.Module) -> None:
        self.own: dict[str, Tensor] = model.state_dict()
        heads = [path for path, _ in heads_of(model)]
        layer = heads[-1]
        self.head = tuple(name for name in self.own if name.rpartition(".")[0] in heads)
        # A file without a head may also lack the layers around it, as in MobileNetV3's classifier of two layers.
        modules = layer.split(".")
        depth = next((depth for depth, name in enumerate(modules) if name in _HEAD_NAMES), len(modules) - 1)
        self._around_head = ".".join(modules[: depth + 1])
        self._layer = layer
        self._parts = {part for name in self.own for part in name.split(".")}

    def backbone(self, present: Iterable[str]) -> dict[str, int]:
        """Values of each tensor that a file must have, which has those that are `present`."""
        around = {name for name in self.own if name.startswith(f"{self._around_head}.")}
        without = {*self.head} if around & {*present} else {*self.head} | around
        return {
            name: tensor.numel()
            for name, tensor in self.own.items()
            if name not in without and tensor.is_floating_point()
        }

    def head_name(self, new: Iterable[str]) -> str | None:
        """The module that has new tensors around the head; None if the head is not new."""
        new = {*new}
        if not {*self.head} <= new:
            return None
        inside = [name for name in self.own if name.startswith(f"{self._around_head}.")]
        return self._around_head if {*inside} <= new else self._layer

    def without_wrappers(self, name: str) -> str:
        """A tensor's name without the modules that wrap others."""
        return ".".join(part for part in name.split(".") if part not in _WRAPPERS or part in self._parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """The tensors of a state dict that belong to a model."""

    given: dict[str, Tensor]
    """All that have the prefix, without it."""
    tensors: dict[str, Tensor]
    """Those that fit, by the model's names."""
    misfits: dict[str, tuple[Tensor, Tensor]]
    """Those of the backbone with another shape or kind of numbers, and the model's own, by the model's names."""
    missing: tuple[str, ...]
    """Names of the model's tensors that are neither, in the model's order; without a head that the file lacks."""
    unused: tuple[str, ...]
    """Names in the file that the model does not have, without the prefix."""
    head: str | None
    """The module that is new, since the file has no head that fits; None if the file's head is used."""
    share: float
    """Share of the backbone's values that fit, between 0 and 1."""
    total: int
    """Tensors of the model; without BatchNorm's counters if the file has none of them."""
    rank: int
    """Which of several matches to prefer: the smaller number."""
    origin: str
    """What the weights are, if that is special: `EMA weights in model_ema`, `teacher's weights in teacher`."""
    prefix: str
    """What was removed from the names in the file."""
    converted: str = ""
    """What changed the names or shapes before they fit."""


def matches(target: Target, state: StateDict) -> list[Match]:
    """How a state dict may belong to a model: with each prefix that makes the most names fit, or without one."""
    names: dict[str, str] = {}
    for name in state.tensors:
        names.setdefault(target.without_wrappers(name), name)
    found: Counter[str] = Counter()
    for name, original in names.items():
        for prefix, rest in _divisions(name):
            if rest in target.own and fits(state.tensors[original], target.own[rest]):
                found[prefix] += target.own[rest].numel()
    best = max(found.values(), default=0)
    prefixes = [prefix for prefix, values in found.most_common(_MOST_PREFIXES) if values > 0.9 * best] or [""]
    return [_match(target, state, names, prefix) for prefix in prefixes]


def fits(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be copied into the model's: it has the same shape, and also real numbers or integers."""
    return (
        tensor.shape == own.shape
        and tensor.is_floating_point() == own.is_floating_point()
        and not (tensor.is_complex() or own.is_complex())
    )


def _divisions(name: str) -> list[tuple[str, str]]:
    """All ways to divide a name into a prefix that ends with a dot, or an empty one, and the rest."""
    ends = [0, *(position + 1 for position, letter in enumerate(name) if letter == ".")]
    return [(name[:end], name[end:]) for end in ends]


def _match(target: Target, state: StateDict, names: Mapping[str, str], prefix: str) -> Match:
    inside = {name.removeprefix(prefix): original for name, original in names.items() if name.startswith(prefix)}
    others = [name for name in names if not name.startswith(prefix)]
    given = {name: state.tensors[original] for name, original in inside.items()}
    tensors = {name: given[name] for name in target.own if name in given and fits(given[name], target.own[name])}
    if not {*target.head} <= tensors.keys():  # a head is used whole or not at all
        tensors = {name: tensor for name, tensor in tensors.items() if name not in target.head}
    backbone = target.backbone(given)
    present = sum(values for name, values in backbone.items() if name in tensors)
    has_counters = any(name.endswith(_COUNTER) for name in given)
    counted = [name for name in target.own if has_counters or not name.endswith(_COUNTER)]
    everything = sum(backbone.values())
    rank, origin = _origin(".".join((*state.path, prefix)).rstrip("."))
    return Match(
        given=given,
        tensors=tensors,
        misfits={name: (given[name], target.own[name]) for name in backbone if name in given and name not in tensors},
        missing=tuple(name for name in backbone if name not in given),
        unused=tuple(
            name
            for name in (*(name for name in inside if name not in target.own), *others)
            if not name.endswith((_COUNTER, "n_averaged"))
        ),
        head=target.head_name(name for name in target.own if name not in tensors),
        share=present / everything if everything else float(any(name in target.own for name in given)),
        total=len(counted),
        rank=rank,
        origin=origin,
        prefix=_removed((inside[name] for name in tensors), target),
    )


def _origin(path: str) -> tuple[int, str]:
    """The rank of weights with these names around them, and what they are."""
    for rank, (pattern, text) in enumerate(_ORIGINS):
        if pattern.search(path):
            return rank, text.format(path)
    return _PLAIN_RANK + bool(_SECOND.search(path)), ""


def _removed(names: Iterable[str], target: Target) -> str:
    """What was removed from names in a file; they may differ, since some wrappers are around single layers."""
    before, inside = {""}, {""}
    for name in names:
        prefix = next((prefix for prefix, rest in _divisions(name) if rest in target.own), None)
        if prefix is not None:
            before.add(prefix)
        else:
            inside.add("".join(f"{part}." for part in name.split(".") if part in _WRAPPERS))
    return max(before, key=len) or max(inside, key=len)
