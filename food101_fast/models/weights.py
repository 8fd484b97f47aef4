"""Weights from a file into a model: what fits is copied, and one line says what that was."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from food101_fast.errors import UserError
from food101_fast.models.checkpoint_files import StateDict, read_state_dicts
from food101_fast.models.conversions import conversions
from food101_fast.models.guess import guess
from food101_fast.models.locations import find_weights
from food101_fast.models.matching import Match, Target, matches

# A smaller share of the backbone's values is refused: those are weights of another model.
_LEAST_SHARE = 0.9
# Matches whose shares differ by less are equally good; a moving average may lack BatchNorm's statistics.
_EQUAL_SHARES = 0.001
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of the weights in a file."""

    line: str
    """One line for the user: how many tensors were loaded from where, which weights they are, and what is new."""
    warning: str | None
    """What is wrong with the weights, or missing; None if nothing is."""


def load_file(model: nn.Module, name: str, weights: str) -> Loaded:
    """Copy the weights in a file into a model. A head with another number of classes is left out.

    Names may have prefixes, numbers may be of another precision. Of several state dicts in the file the one that fits
    best is taken, and of equally good ones a moving average. See docs/weights.md.

    Args:
        model: with its new head, on the CPU.
        name: of the model, for errors.
        weights: path or URL of the file, or of a folder with one; see `locations.find_weights`.

    Raises:
        UserError: the file can't be found or read, or less than 90 % of the backbone's values fit. Then the model is
            unchanged.
    """
    file = find_weights(weights)
    states = read_state_dicts(file)
    match = _best_match(model, states)
    if match.share < _LEAST_SHARE:
        raise UserError(_refusal(name, file.name, match, states))
    load_weights(model, model.state_dict() | match.tensors)
    return Loaded(line=_line(file.name, match), warning=_warning(file.name, match))


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a state dict that fits into the model.

    A file of weights has no versions of its modules. MNASNet needs one, and gets the model's own.
    """
    state = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)


def _best_match(model: nn.Module, states: Sequence[StateDict]) -> Match:
    """The state dict that fits best; a library's conversions are tried where none fits completely."""
    target = Target(model)
    found = [match for state in states for match in matches(target, state)]
    if max(match.share for match in found) < 1:
        found += [match for state in states for match in _converted(model, target, state)]
    best = max(match.share for match in found)
    good = [match for match in found if match.share >= best - _EQUAL_SHARES]
    return min(good, key=lambda match: (match.rank, match.converted != "", -match.share))


def _converted(model: nn.Module, target: Target, state: StateDict) -> Iterable[Match]:
    for match in matches(target, state):
        for how, tensors in conversions(model, match.given):
            for converted in matches(target, StateDict(path=state.path, tensors=tensors)):
                yield replace(converted, converted=how, prefix=match.prefix, rank=match.rank, origin=match.origin)


def _line(name: str, match: Match) -> str:
    prefix = f"prefix {match.prefix} removed" if match.prefix else ""
    details = [detail for detail in (match.origin, prefix, match.converted) if detail]
    line = f"{len(match.tensors)} of {match.total} tensors loaded from {name}"
    line += f" ({', '.join(details)})" if details else ""
    line += f"; {match.head} is new" if match.head is not None else ""
    return line + (f"; not used: {_grouped(match.unused)}" if match.unused else "")


def _warning(name: str, match: Match) -> str | None:
    problems = []
    if different := _differences(match):
        problems.append(f"fit {match.share:.1%} of the backbone, and the rest starts with random values ({different})")
    if broken := [name for name, tensor in match.tensors.items() if not bool(torch.isfinite(tensor).all())]:
        problems.append(f"contain NaN or Inf ({_first(broken)}), so that training may not get anywhere")
    return f"the weights in {name} {' and '.join(problems)}" if problems else None


def _refusal(name: str, file: str, match: Match, states: Sequence[StateDict]) -> str:
    names = guess(states, file)
    advice = (
        f"they look like those of {' or '.join(names)}: give --model {names[0]}"
        if names
        else "give their model to --model"
    )
    return (
        f"the weights in {file} are not of a {name}: only {match.share:.0%} of its backbone's values fit "
        f"({_differences(match)}); {advice}, or other --weights"
    )


def _differences(match: Match) -> str:
    """The first tensors of the backbone that the file lacks or has in another shape."""
    return _first(
        [f"{name} is missing" for name in match.missing]
        + [
            f"{name} has the shape {tuple(theirs.shape)} and not {tuple(own.shape)}"
            if theirs.shape != own.shape
            else f"{name} is {theirs.dtype} and not {own.dtype}"
            for name, (theirs, own) in match.misfits.items()
        ]
    )


def _grouped(names: Iterable[str]) -> str:
    """Names in a file, those of one module together."""
    groups = Counter(name.partition(".")[0] for name in names)
    single = {name.partition(".")[0]: name for name in names}
    return _first([single[group] if count == 1 else f"{group} ({count} tensors)" for group, count in groups.items()])


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(islice(names, _NAMED)) + (f" and {more} more" if more > 0 else "")
