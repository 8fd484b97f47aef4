"""`python -m food101_fast.predict`: the most probable classes of images; other files are named and skipped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import fsspec
import numpy as np
import orjson
import tyro
from annotated_types import Ge

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.errors import UserError
from food101_fast.images import MAX_PIXELS, RejectedError
from food101_fast.limits import check_limits
from food101_fast.predict.classifier import Classifier
from food101_fast.storage import readable
from food101_fast.terminal import wrapped

_BAD_FILES_CODE = 1
_GAP = "  "


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Print the most probable classes of images.

    Files that are not whole images are skipped and named on the error stream, and the exit code is then 1.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders (with all files below them), URLs, or - for one image from standard input."""
    run: Path
    """Folder of the run; its shards are not needed."""
    top_k: Annotated[int, Ge(1)] = 5
    """Classes to print for each image."""
    json: bool = False
    """Print a line of JSON for each image instead of a table."""
    checkpoint: str = "best"
    """Checkpoint of the run: best, last, or one that --keep kept."""
    calibrated: bool = False
    """Divide logits by the temperature that evaluate has fitted on val, so that probabilities are as high as they are
    right. The most probable class stays the same."""
    device: Device = "auto"
    """Device to compute on; auto is CUDA if available."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Images in each batch."""
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    """Refuse images with more pixels (height x width)."""

    def __post_init__(self) -> None:
        if not self.images:
            raise UserError("predict needs images: files, folders, URLs or -")
        check_limits(self)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(PredictSettings, "predict", argv)
    classifier = Classifier.load(
        settings.run, checkpoint=settings.checkpoint, device=settings.device, calibrated=settings.calibrated
    )
    classifier.rules = replace(classifier.rules, max_pixels=settings.max_pixels)
    names = list(_named(settings.images))
    label_width = min(max(map(len, classifier.classes)), 24)
    width = min(max((len(name) for name in names), default=0), 60)
    bad = 0
    for first in range(0, len(names), settings.batch_size):
        whole, pixels = [], []
        for name in names[first : first + settings.batch_size]:
            try:
                pixels.append(classifier.pixels(_read(name)))
                whole.append(name)
            except RejectedError as error:
                bad += 1
                _complain(f"{readable(name)}: {error.reason}: {error.detail}")
            except Exception as error:  # each protocol of fsspec raises its own errors
                if "://" not in name and not isinstance(error, OSError | ValueError):
                    raise
                bad += 1
                _complain(f"{readable(name)}: can't be read: {_why(error, name)}")
        if not whole:
            continue
        top = classifier.top(classifier.probabilities(np.stack(pixels)), settings.top_k)
        for name, classes in zip(whole, top, strict=True):
            print(_as_json(name, classes) if settings.json else _as_lines(name, classes, width, label_width))
    if bad:
        _complain(f"{bad} of {len(names)} could not be predicted")
        sys.exit(_BAD_FILES_CODE)


def _complain(line: str) -> None:
    print(wrapped(line, sys.stderr), file=sys.stderr)


def _named(arguments: Sequence[str]) -> Iterator[str]:
    """The files to predict; for a folder its files in order, without hidden ones."""
    for argument in arguments:
        folder = Path(argument)
        if argument == "-" or "://" in argument or not folder.is_dir():
            yield argument
            continue
        below = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        files = [str(folder / path) for path in below if not any(part.startswith(".") for part in path.parts)]
        yield from files or [argument]  # an empty folder is reported as unreadable


def _why(error: Exception, name: str) -> str:
    """An error's message without the name of the file, which is printed before it."""
    text = getattr(error, "strerror", None) or str(error)
    return text if text and text != name else type(error).__name__


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    if "://" in name:
        files, path = fsspec.core.url_to_fs(name)  # `fsspec.open` takes brackets for a pattern
        with files.open(path, "rb") as file:
            return bytes(file.read())
    return Path(name).read_bytes()


def _as_json(name: str, classes: list[tuple[str, float]]) -> str:
    predictions = [{"class": label, "probability": probability} for label, probability in classes]
    return orjson.dumps({"image": readable(name), "predictions": predictions}).decode()


def _as_lines(name: str, classes: list[tuple[str, float]], width: int, label_width: int) -> str:
    """One line, or on a terminal as many as its width asks for, with the classes in columns."""
    cells = [f"{label:<{label_width}} {probability:.3f}" for label, probability in classes]
    per_line = len(cells)
    if sys.stdout.isatty():
        left = shutil.get_terminal_size().columns - width
        per_line = max(1, left // (len(_GAP) + len(cells[0])))
    rows = (_GAP.join(cells[first : first + per_line]) for first in range(0, len(cells), per_line))
    return "\n".join(f"{readable(name) if row == 0 else '':<{width}}{_GAP}{text}" for row, text in enumerate(rows))


if __name__ == "__main__":
    exit_with(main)
