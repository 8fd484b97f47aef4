"""Limits that stand beside the fields of settings, as `Annotated[int, Ge(1)]`, and the checkers that read them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from numbers import Integral
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from food101_fast.errors import UserError

Limit = Ge | Gt | Le | Lt

_MEANINGS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    Ge: ("ge", "at least", operator.ge),
    Gt: ("gt", "above", operator.gt),
    Le: ("le", "at most", operator.le),
    Lt: ("lt", "below", operator.lt),
}


def check_limits(settings: Any) -> None:
    """Check every field of a dataclass against the limits in its annotation; call it in `__post_init__`.

    None is always allowed. NaN and Inf never are.

    Raises:
        UserError: a field is outside its limits.
    """
    for name, limits in _limits(type(settings)).items():  # type: ignore[arg-type]
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and _within(value, limits)):
            raise UserError(f"--{name.replace('_', '-')} {value} should be {_words(limits)}")


def check_arguments(arguments: Any) -> None:
    """Check the arguments of a function that a dataclass collects; call it in `__post_init__`.

    A field with limits should be a whole number within them, and a `Literal` one of its values. None is not checked.

    Raises:
        ValueError: an argument is out of its range.
    """
    for name, choices in _choices(type(arguments)).items():  # type: ignore[arg-type]
        value = getattr(arguments, name)
        if value not in choices:
            raise ValueError(f"{name} should be one of {', '.join(choices)} and is {value!r}")
    for name, limits in _limits(type(arguments)).items():  # type: ignore[arg-type]
        value = getattr(arguments, name)
        if value is not None and not (isinstance(value, Integral) and _within(value, limits)):
            raise ValueError(f"{name} should be a whole number of {_words(limits)} and is {value!r}")


@functools.cache
def _limits(kind: Any) -> dict[str, tuple[Limit, ...]]:
    """The fields that have limits, and these limits."""
    found = {name: _of(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return {name: limits for name, limits in found.items() if limits}


@functools.cache
def _choices(kind: Any) -> dict[str, tuple[str, ...]]:
    """The fields that are `Literal`, and their values."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}


def _of(hint: Any) -> tuple[Limit, ...]:
    if get_origin(hint) is Annotated:
        return tuple(extra for extra in hint.__metadata__ if isinstance(extra, Limit))
    return next((limits for limits in map(_of, get_args(hint)) if limits), ())


def _meaning(limit: Limit) -> tuple[Callable[[Any, Any], bool], str, Any]:
    """How a limit compares, its words, and its number."""
    attribute, words, compare = _MEANINGS[type(limit)]
    return compare, words, getattr(limit, attribute)


def _within(value: Any, limits: tuple[Limit, ...]) -> bool:
    return all(compare(value, bound) for compare, _, bound in map(_meaning, limits))


def _words(limits: tuple[Limit, ...]) -> str:
    return " and ".join(f"{words} {bound}" for _, words, bound in map(_meaning, limits))
