"""Which classes of a source are used: chosen by name, by their number of images, or because they can be split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare.settings import PrepareSettings

_MOST_NAMED = 20


def choose_classes(classes: Sequence[str], counts: NDArray[np.int64], settings: PrepareSettings) -> NDArray[np.bool_]:
    """Which classes to use.

    Args:
        classes: C class names.
        counts: (C,) images of each.
        settings: with `classes`, `exclude_classes` and `min_images`.

    Returns:
        (C,) whether each class is used.

    Raises:
        UserError: a name is not a class, or fewer than two classes are left.
    """
    wanted = _known(settings.classes, classes, "--classes") or set(classes)
    wanted -= _known(settings.exclude_classes, classes, "--exclude-classes")
    used = np.array([name in wanted for name in classes], bool) & (counts >= settings.min_images)
    if used.sum() < min(2, len(classes)):
        raise UserError(
            f"--classes, --exclude-classes and --min-images leave {int(used.sum())} of {len(classes)} classes, and a "
            "classifier needs two; choose more"
        )
    return used


def _known(names: Sequence[str], classes: Sequence[str], flag: str) -> set[str]:
    """The names, which may be joined by commas."""
    known = set(classes)
    split = [part for name in names for part in ([name] if name in known else name.split(","))]
    if unknown := [name for name in split if name not in known]:
        raise UserError(f"{flag} has {unknown[0]!r}, which is not a class of the source ({listed(classes)})")
    return set(split)


def refuse_short(
    short: Mapping[str, int], needed: int, shares: str, dropped: int, classes: Sequence[str], flag: str
) -> None:
    """Refuse classes with too few images, all at once.

    Args:
        short: images of each of these classes.
        needed: images that a class needs.
        shares: how the images are split, for the error.
        dropped: duplicates that were dropped before.
        classes: all classes, of which one may be spelled in two ways.
        flag: the one that changes the shares.

    Raises:
        UserError: there is one.
    """
    if not short:
        return
    without = f" without the {dropped} duplicates (which --duplicates keep would keep)" if dropped else ""
    first, images = next(iter(short.items()))
    several = listed([f"{name} {images}" for name, images in short.items()])
    count = f"class {first!r}: {images}" if len(short) == 1 else f"{len(short)} classes ({several})"
    raise UserError(
        f"too few images of {count}{without}, and at least {needed} are needed to split {shares}"
        f"{_spelled_twice(short, classes)}; add images, change {flag} or --limit, or give --rare to-train, which uses "
        "them to train only, or --rare drop"
    )


def _spelled_twice(short: Iterable[str], classes: Sequence[str]) -> str:
    """A hint for the first short class that differs from another class only in case, blanks or punctuation."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_plain(name), []).append(name)
    for name in short:
        if others := [other for other in alike[_plain(name)] if other != name]:
            return f" (are {name!r} and {others[0]!r} one class? then correct the labels)"
    return ""


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def listed(names: Sequence[object]) -> str:
    """Names with commas, of many the first and how many more there are."""
    shown = ", ".join(map(str, names[:_MOST_NAMED]))
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def left_out(classes: Sequence[str], counts: NDArray[np.int64], used: NDArray[np.bool_]) -> Mapping[str, int]:
    """Images of each class that is not used."""
    return {classes[label]: int(counts[label]) for label in np.flatnonzero(~used).tolist()}
