"""Labels and split names out of a column of a table or of a hub data set."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
"""Names by which a column with labels is recognized."""

# Not 007, which is a name.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")


def can_be_label(kind: Any) -> bool:
    """Whether values of an Arrow type can be labels: text, whole numbers, numbers and bools."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return can_be_label(kind.value_type)
    return bool(
        is_text(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is text."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def recognized(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of `names` that are in `known` if case is ignored and blanks and hyphens are underscores."""
    return [name for name in names if re.sub(r"[ -]", "_", name.strip().lower()) in known]


def encode(column: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The distinct values of an Arrow column as text, and which of them each row has.

    Numbers sort by value and text by code points. Whole numbers are written without a decimal point, also in a text
    column if it has nothing else: programs write 2.0 where a column of whole numbers has gaps. Text loses blanks at
    both ends. Null, NaN and empty text are no value.

    Returns:
        The names, and an int64 array with an index into them for each row, -1 where a row has no value.
    """
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        column = column.cast(pyarrow.large_string())  # string views have fewer functions
    distinct = column.unique()
    codes = pyarrow.compute.index_in(column, value_set=distinct).fill_null(-1).to_numpy()
    texts = [as_text(value) for value in distinct.to_pylist()]
    if all(text is None or _WHOLE.fullmatch(text) for text in texts):
        texts = [None if text is None else text.partition(".")[0] for text in texts]
    names = {text for text in texts if text is not None}
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    ordered = sorted(names, key=lambda name: (Decimal(name), name)) if numeric else sorted(names)
    index = {name: number for number, name in enumerate(ordered)}
    # Its last item is for the code -1.
    numbers = np.array([-1 if text is None else index[text] for text in texts] + [-1], np.int64)
    return tuple(ordered), numbers[codes]


def as_text(value: Any) -> str | None:
    """A plain value as the name of a class; None for no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None
