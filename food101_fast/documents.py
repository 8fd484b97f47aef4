"""Documents that were written before, as JSON or in a checkpoint, back as the dataclasses that they were."""

from __future__ import annotations

from typing import Any, TypeVar

from food101_fast.errors import UserError

T = TypeVar("T")


def parse(content: bytes, kind: type[T], *, where: str, advice: str) -> T:
    """A JSON document as an object of type `kind`.

    Types are checked all the way down; a `__post_init__` may check more and raise `ValueError` or `UserError`. Keys
    that `kind` does not have are ignored.

    Args:
        content: the document.
        kind: a dataclass, or any other type that `msgspec.json.decode` knows.
        where: file or URL that the document came from, for the error.
        advice: what the user can do about a damaged one, for the error.

    Raises:
        UserError: the document is not JSON, or not of this type.
    """
    import msgspec  # here and below, since worker processes import this module and parse nothing

    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(error, where, advice) from error


def convert(document: Any, kind: type[T], *, where: str, advice: str) -> T:
    """Like `parse`, of a document that is already dicts, lists, strings and numbers.

    Raises:
        UserError: the document is not of this type.
    """
    import msgspec

    try:
        return msgspec.convert(document, kind)
    except msgspec.MsgspecError as error:
        raise _damaged(error, where, advice) from error


def _damaged(error: Exception, where: str, advice: str) -> UserError:
    return UserError(f"{where} is damaged ({error}); {advice}")
