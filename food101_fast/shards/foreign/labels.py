"""The label in a member of a sample, and class numbers for all labels of a data set."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import orjson

from food101_fast.errors import UserError
from food101_fast.shards.foreign.members import printable

Label = int | str

# Written otherwise, such as 007, it is a name. More digits than an int64 has are a name too.
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?")
_PADDED = re.compile(r"0[0-9]+")

_MISSING = -1  # in data sets of the hub, and in many others

# A data set may lack most of its classes, such as a few tars of one with 1,000. Beyond these a number is taken for an
# id or a time, and a text for a caption.
_MOST_PER_LABEL = 10
_ALWAYS_ACCEPTED = 1000


class NoLabelError(Exception):
    """A sample has no label; the message says why."""


def read_label(content: bytes, suffix: str, label_field: str) -> Label:
    """The label in a member of a sample.

    Args:
        content: of the member.
        suffix: of the member: `json`, or another for a text file with nothing but the label.
        label_field: the field of a JSON object with the label.

    Raises:
        NoLabelError: there is none.
    """
    label = _of_json(content, label_field) if suffix == "json" else _of_file(content, suffix)
    if label == _MISSING:
        raise NoLabelError(f"its label is {_MISSING}, which means that it has none")
    return label


def _of_file(content: bytes, suffix: str) -> Label:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise NoLabelError(f"its .{suffix} is not text in UTF-8 ({error})") from error
    if not text:
        raise NoLabelError(f"its .{suffix} is empty")
    if len(text.splitlines()) > 1 or "\0" in text:
        raise NoLabelError(f"its .{suffix} has more than one line of text")
    return _of_text(text)


def _of_text(text: str) -> Label:
    number = _NUMBER.fullmatch(text)
    return int(number[1]) if number and number[1] != "-0" else text


def _of_json(content: bytes, label_field: str) -> Label:
    try:
        document = _parsed(content)
    except (ValueError, RecursionError) as error:
        raise NoLabelError(f"its .json can't be read ({error})") from error
    label = document.get(label_field) if isinstance(document, dict) else None
    if isinstance(label, float) and label.is_integer() and abs(label) < 2**53:
        return int(label)
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    if isinstance(label, str) and label.strip():
        try:
            label.encode()
        except UnicodeEncodeError as error:
            raise NoLabelError(f"the field {label_field!r} of its .json is not valid Unicode ({error})") from error
        return label
    fields = ", ".join(map(printable, list(document)[:20])) if isinstance(document, dict) else "none"
    raise NoLabelError(
        f"its .json has no number or text in the field {label_field!r} (its fields: {fields}); name the right one with "
        "--label-field"
    )


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:  # Python's reader also takes NaN, which its writer writes, and a byte order mark
        return json.loads(content.decode("utf-8-sig"))


def number_classes(
    labels: Sequence[Label], names: Sequence[str] | None = None, files: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """Class names, and the class number of each label.

    Args:
        labels: of all samples, at least one.
        names: class names in the order of their numbers; None derives them.
        files: tar and name of each sample's image, for error messages.

    Raises:
        UserError: numbers and texts are mixed, a label is not among the names, or the labels are not classes.
    """
    different = set(labels)
    texts = sorted(label for label in different if isinstance(label, str))
    numbers = sorted(label for label in different if isinstance(label, int))
    if texts and numbers and not all(map(_PADDED.fullmatch, texts)):
        raise UserError(_mixed(labels, files))
    if not names and len(different) > max(_ALWAYS_ACCEPTED, len(labels) // 2):
        raise UserError(
            f"{len(labels):,} samples have {len(different):,} different labels, such as {[*numbers, *texts][0]!r}, "
            "which look like ids or captions, not classes; name the right field with --label-field, or give --classes"
        )
    name_of = {label: str(label) for label in different}
    in_range = numbers and names and numbers[0] >= 0 and numbers[-1] < len(names)
    are_names = names and set(name_of.values()) <= set(names)
    if not texts and (in_range or not are_names):
        _check_numbers(numbers, names, labels, files)
        return tuple(names or map(str, range(numbers[-1] + 1))), {number: number for number in numbers}
    known = tuple(names or sorted(name_of.values()))
    if unknown := sorted(set(name_of.values()) - set(known)):
        first = next(label for label in labels if name_of[label] == unknown[0])
        raise UserError(
            f"the label {unknown[0]!r}{_of_which(first, labels, files)} is not among the {len(known)} names of "
            "--classes; add it there"
        )
    number_of = {name: number for number, name in enumerate(known)}
    return known, {label: number_of[name] for label, name in name_of.items()}


def _check_numbers(
    numbers: Sequence[int], names: Sequence[str] | None, labels: Sequence[Label], files: Sequence[str]
) -> None:
    """Refuse sorted `numbers` that can't be the numbers of classes."""
    classes = len(names) if names else numbers[-1] + 1
    if numbers[0] < 0 or numbers[-1] >= classes:
        odd = numbers[0] if numbers[0] < 0 else numbers[-1]
        raise UserError(
            f"labels go from {numbers[0]} to {numbers[-1]} and should be from 0 to {classes - 1}, for {classes} "
            f"classes, unlike the label {odd}{_of_which(odd, labels, files)}; correct --classes or the labels"
        )
    if not names and classes > _ALWAYS_ACCEPTED + _MOST_PER_LABEL * len(numbers):
        raise UserError(
            f"labels go up to {numbers[-1]} and only {len(numbers):,} of them are different, so they look like ids or "
            "times, not classes; name the right field with --label-field, or give --classes with the labels as names"
        )


def _mixed(labels: Sequence[Label], files: Sequence[str]) -> str:
    """The sentence about numbers among texts, or texts among numbers: the rarer kind is named."""
    numbers = [label for label in labels if isinstance(label, int)]
    texts = [label for label in labels if isinstance(label, str) and not _PADDED.fullmatch(label)]
    odd = numbers[0] if len(numbers) < len(texts) else texts[0]
    count = len(numbers) if isinstance(odd, int) else len(labels) - len(numbers)
    kind = "text" if isinstance(odd, str) else "a number" if count == 1 else "numbers"
    return (
        f"some labels are numbers ({numbers[0]}) and some are text ({texts[0]!r}): {count:,} of {len(labels):,} "
        f"{'is' if count == 1 else 'are'} {kind}, such as {odd!r}{_of_which(odd, labels, files)}; make them alike"
    )


def _of_which(label: Label, labels: Sequence[Label], files: Sequence[str]) -> str:
    """The first image with a label, as the end of a phrase."""
    return f" of {files[labels.index(label)]}" if files else ""
