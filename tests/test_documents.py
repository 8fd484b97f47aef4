"""Documents are read back with their types checked, and say in one sentence where they are damaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import orjson
import pytest
from annotated_types import Ge

from food101_fast.documents import convert, parse
from food101_fast.errors import UserError
from food101_fast.limits import check_limits


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    shares: tuple[float, ...]
    parts: Mapping[str, Inner]
    note: str | None = None


WHOLE = Outer(name="a", shares=(0.5, 1.0), parts={"x": Inner(size=3)})


def test_a_document_comes_back_as_it_was() -> None:
    assert parse(orjson.dumps(WHOLE), Outer, where="f.json", advice="write it again") == WHOLE
    assert convert(asdict(WHOLE), Outer, where="state", advice="begin again") == WHOLE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Input data was truncated"),
        (b"\xff\xfe", "f.json is damaged"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (b'{"name": "a", "parts": {}}', "missing required field `shares`"),
        (b'{"name": "a", "shares": [0.5, "1"], "parts": {}}', "$.shares[1]"),
        (b'{"name": "a", "shares": [], "parts": {"x": {"size": null}}}', "$.parts[...].size"),
        (b'{"name": "\xff", "shares": [], "parts": {}}', "f.json is damaged"),
    ],
)
def test_a_damaged_document_says_where(content: bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(content, Outer, where="f.json", advice="write it again")
    assert words in str(caught.value)
    assert str(caught.value).startswith("f.json is damaged (")
    assert str(caught.value).endswith("); write it again")


def test_limits_hold_for_a_document_too() -> None:
    with pytest.raises(UserError, match="--size 0 should be at least 1"):
        parse(b'{"name": "a", "shares": [], "parts": {"x": {"size": 0}}}', Outer, where="f.json", advice="again")
