"""The checker of settings: what is within the limits passes, and everything beyond is named with its flag."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.runs.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Every kind of limit, alone and in pairs, and beside None."""

    from_two: Annotated[int, Ge(2)] = 2
    to_nine: Annotated[int, Ge(-5), Le(9)] = 0
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    maybe: Annotated[float, Gt(0)] | None = None
    free: int = 0

    def __post_init__(self) -> None:
        check_limits(self)


@given(two=st.integers(), nine=st.integers(), share=st.floats(), maybe=st.none() | st.floats(), free=st.integers())
def test_only_what_is_within_the_limits_passes(
    two: int, nine: int, share: float, maybe: float | None, free: int
) -> None:
    allowed = two >= 2 and -5 <= nine <= 9 and 0 < share < 1 and (maybe is None or 0 < maybe < math.inf)
    try:
        Settings(from_two=two, to_nine=nine, share=share, maybe=maybe, free=free)
    except UserError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"from_two": 1}, "--from-two 1 should be at least 2"),
        ({"to_nine": 10}, "--to-nine 10 should be at least -5 and at most 9"),
        ({"share": 0.0}, "--share 0.0 should be above 0 and below 1"),
        ({"maybe": math.nan}, "--maybe nan should be above 0"),
    ],
)
def test_the_sentence_names_flag_value_and_limits(changed: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        Settings(**changed)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_every_number_of_a_recipe_has_a_limit() -> None:
    """A new field is seen here: each of the recipe's numbers is refused somewhere far below zero."""
    for field in dataclasses.fields(Recipe):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            below: dict[str, Any] = {field.name: -1}
            with pytest.raises(UserError, match="--" + field.name.replace("_", "-")):
                dataclasses.replace(Recipe(), **below)
