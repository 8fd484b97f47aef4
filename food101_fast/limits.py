"""Limits that stand beside the fields of settings, as `Annotated[int, Ge(1)]`, and the checkers that read them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable
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
        if value is None or (math.isfinite(value) and all(_holds(value, limit) for limit in limits)):
            continue
        flag = "--" + name.replace("_", "-")
        raise UserError(f"{flag} {value} should be {' and '.join(map(_words, limits))}")


def check_arguments(arguments: Any) -> None:
    """Check the arguments of a function that a dataclass collects; call it in `__post_init__`.

    A field with limits should be a whole number within them, and a `Literal` one of its values. None is not checked.

    Raises:
        ValueError: an argument is out of its range.
    """
    for name, hint in get_type_hints(type(arguments), include_extras=True).items():
        value, limits = getattr(arguments, name), _of(hint)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if choices and value not in choices:
            raise ValueError(f"{name} should be one of {', '.join(choices)} and is {value!r}")
        if value is None or not limits:
            continue
        if not isinstance(value, Integral) or not all(_holds(value, limit) for limit in limits):
            words = " and ".join(map(_words, limits))
            raise ValueError(f"{name} should be a whole number of {words} and is {value!r}")


@functools.cache
def _limits(kind: Hashable) -> dict[str, tuple[Limit, ...]]:
    """The fields that have limits, and these limits."""
    found = {name: _of(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return {name: limits for name, limits in found.items() if limits}


def _of(hint: Any) -> tuple[Limit, ...]:
    if get_origin(hint) is Annotated:
        return tuple(extra for extra in hint.__metadata__ if isinstance(extra, Limit))
    return next((limits for limits in map(_of, get_args(hint)) if limits), ())


def _holds(value: Any, limit: Limit) -> bool:
    attribute, _, compare = _MEANINGS[type(limit)]
    return compare(value, getattr(limit, attribute))


def _words(limit: Limit) -> str:
    attribute, words, _ = _MEANINGS[type(limit)]
    return f"{words} {getattr(limit, attribute)}"
