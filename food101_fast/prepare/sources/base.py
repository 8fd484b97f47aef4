"""What every source can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.shards.rejects import Reject


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What decides, with its location, what a source lists. Each kind of source uses the options that concern it."""

    seed: int = 0
    """`demo:` draws other pictures for another seed."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of a table by what they mean: file, label, split, group."""
    config: str | None = None
    """Configuration of a data set of the hub."""
    revision: str | None = None
    """Branch, tag or commit of a data set of the hub."""
    image_column: str | None = None
    """Column with the images of a data set of the hub."""
    label_column: str | None = None
    """Column with the labels of a data set of the hub."""


@dataclass(frozen=True, kw_only=True)
class GivenSplits:
    """The splits that a source has itself."""

    names: tuple[str, ...]
    """As the source spells them, such as train2017."""
    numbers: NDArray[np.int64]
    """(N,) split of each file: an index into `names`, -1 for a file that is in none."""


class Source(Protocol):
    """A list of N labeled image files. Picklable, since worker processes read from it.

    It lists labels and names at once, and reads one file at a time: no process keeps more than one image in memory.

    Attributes:
        classes: class names.
        labels: (N,) int64, the label of each file: an index into `classes`.
        fingerprint: 16 hexadecimal digits that change when another file is listed.
        splits: the source's own splits; None where it has none.
        rejects: what the source lists without an image or a label (`NO_IMAGE`, `NO_LABEL`); not among the N files.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    fingerprint: str
    splits: GivenSplits | None
    rejects: tuple[Reject, ...]

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the files: not from a folder in the memory of this one."""
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of a table; empty where the source has none, or none that says the split or the group."""
        ...

    @property
    def names(self) -> list[str]:
        """N names, for people; not necessarily unique."""
        ...

    def file(self, position: int) -> str:
        """The name under which a user finds file `position` (0 to N - 1) in the source, such as its path."""
        ...

    def column(self, name: str) -> Sequence[object] | None:
        """The N values of a column, None for a missing value; None where the source has no such column."""
        ...

    def read(self, position: int) -> bytes:
        """The bytes of file `position`.

        Raises:
            RejectedError: the file is gone, and is to be dropped like a damaged one.
            UserError: the file can't be read.
        """
        ...


def unreadable(name: str, error: OSError) -> UserError:
    """The error about an image file that can't be read."""
    advice = machine_advice(error) or "make it readable or remove it"
    return UserError(f"the image {name} cannot be read ({error.strerror or error}); {advice}")
