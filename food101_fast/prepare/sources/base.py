"""What every source can do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError


class Source(Protocol):
    """A list of N labeled image files. Picklable, since worker processes read from it.

    It lists labels and names at once, and reads one file at a time: no process keeps more than one image in memory.

    Attributes:
        classes: class names.
        labels: (N,) int64, the label of each file: an index into `classes`.
        fingerprint: 16 hexadecimal digits that change when another file is listed.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    fingerprint: str

    @property
    def names(self) -> list[str]:
        """N names, for people; not necessarily unique."""
        ...

    def file(self, position: int) -> str:
        """The name under which a user finds file `position` (0 to N - 1) in the source, such as its path."""
        ...

    def read(self, position: int) -> bytes:
        """The bytes of file `position`.

        Raises:
            UserError: the file can't be read.
        """
        ...


def unreadable(name: str, error: OSError) -> UserError:
    """The error about an image file that can't be read."""
    return UserError(f"the image {name} cannot be read ({error.strerror or error}); make it readable or remove it")
