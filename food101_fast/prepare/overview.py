"""Pictures of a folder of shards, so that people see at a glance whether it is what they meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

from food101_fast.fonts import families_for, runs
from food101_fast.images import RejectedError, Rules, clean
from food101_fast.plots import plot_class_counts, png
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import OVERVIEW_NAMES, index_name, npy_header
from food101_fast.shards.manifest import Manifest
from food101_fast.shards.rejects import Reject
from food101_fast.storage import Folder

_TILE = 128
_MARGIN = 8
_LINE = 15
_COLUMNS = 12
_SAMPLES_PER_CLASS = 8  # where every class has a row of its own
_MOST_CLASSES = 120
_MOST_REJECTS = 48
_REJECT_COLUMNS = 6
_REJECT_WIDTH = 220  # wider than a picture: the reason must fit under it


def draw(
    manifest: Manifest, folder: Folder, source: Source, rejects: Sequence[Reject], positions: Mapping[str, int]
) -> dict[str, bytes]:
    """The pictures as PNG files, by their name in the folder.

    Args:
        manifest: of the folder.
        folder: with all its shards.
        source: where the rejected files are read from.
        rejects: all of them, sorted by key; a selection is shown, with some of every reason.
        positions: position in the source, by key, of each reject that is a file there.

    Raises:
        OSError: a shard can't be read.
        UserError: a rejected file can no longer be read.
    """
    counts = {name: split.class_counts for name, split in manifest.splits.items()}
    names = iter(OVERVIEW_NAMES)
    return {
        next(names): png(plot_class_counts(counts, manifest.classes)),
        next(names): _png(_samples_sheet(manifest, folder)),
        next(names): _png(_rejects_sheet(manifest, source, rejects, positions)),
    }


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG", compress_level=1)  # a fifth of the time for a tenth more bytes
    return stream.getvalue()


def _samples_sheet(manifest: Manifest, folder: Folder) -> Image.Image:
    """A row for each class where there are few classes, and one picture for each where there are many."""
    one_row_each = len(manifest.classes) <= _COLUMNS
    wanted = _SAMPLES_PER_CLASS if one_row_each else 1
    shown = np.linspace(0, len(manifest.classes) - 1, min(len(manifest.classes), _MOST_CLASSES)).round().astype(int)
    found: dict[int, list[Image.Image]] = {label: [] for label in shown.tolist()}
    for shard in manifest.splits["train"].shards:
        if all(len(pictures) == wanted for pictures in found.values()):
            break
        index = np.load(BytesIO(folder.read(index_name(shard.name))), allow_pickle=False)
        for label, pictures in found.items():
            for row in index[index["label"] == label][: wanted - len(pictures)]:
                start, length = int(row["offset"]), int(row["length"])
                pictures.append(_stored_picture(folder.read(shard.name, start, start + length), manifest))
    columns = wanted if one_row_each else min(_COLUMNS, len(found))
    rows = len(found) if one_row_each else -(-len(found) // columns)
    split = f"{len(found)} of {len(manifest.classes)} classes" if len(found) < len(manifest.classes) else "every class"
    sheet = _Sheet(f"Stored images of {split}, train split", columns, rows, _TILE, lines=1)
    for number, (label, pictures) in enumerate(found.items()):
        for i, picture in enumerate(pictures):
            column, row = (i, number) if one_row_each else (number % columns, number // columns)
            sheet.put(column, row, picture, [manifest.classes[label].replace("_", " ")])
    return sheet.picture


def _stored_picture(payload: bytes, manifest: Manifest) -> Image.Image:
    if manifest.encoding == "jpeg":
        return Image.fromarray(simplejpeg.decode_jpeg(payload, "RGB"))
    pixels = np.frombuffer(payload, np.uint8, offset=len(npy_header(manifest.image_size)))
    return Image.fromarray(pixels.reshape(manifest.image_size, manifest.image_size, 3))


def _rejects_sheet(
    manifest: Manifest, source: Source, rejects: Sequence[Reject], positions: Mapping[str, int]
) -> Image.Image:
    by_reason: dict[str, list[Reject]] = {}
    for reject in rejects:
        by_reason.setdefault(reject.reason, []).append(reject)
    in_turn = chain.from_iterable(zip_longest(*by_reason.values()))
    shown = [reject for reject in in_turn if reject is not None][:_MOST_REJECTS]
    shown.sort(key=lambda reject: (reject.reason, reject.key))
    counts = ", ".join(f"{reason} {count:,}" for reason, count in manifest.rejects.items()) or "none"
    title = f"Dropped: {len(rejects):,} of {manifest.read:,} ({counts})"
    if len(shown) < len(rejects):
        title += f"; {len(shown)} of them are shown"
    sheet = _Sheet(title, _REJECT_COLUMNS, -(-len(shown) // _REJECT_COLUMNS), _REJECT_WIDTH, lines=3)
    for number, reject in enumerate(shown):
        try:
            # Tolerant, to show what can be decoded.
            rules = Rules(size=_TILE, check="tolerant")
            picture = Image.fromarray(clean(source.read(positions[reject.key]), rules).pixels)
        except (RejectedError, KeyError):  # a KeyError: the source lists it without an image
            picture = None
        captions = [reject.reason, reject.key, reject.detail]
        sheet.put(number % _REJECT_COLUMNS, number // _REJECT_COLUMNS, picture, captions)
    return sheet.picture


class _Sheet:
    """Pictures in rows and columns with lines of text under each."""

    def __init__(self, title: str, columns: int, rows: int, width: int, lines: int) -> None:
        self._width, self._height = width + _MARGIN, _TILE + lines * _LINE + _MARGIN
        size = (columns * self._width + _MARGIN, rows * self._height + 2 * _MARGIN + 2 * _LINE)
        self._font = ImageFont.load_default(12)
        self.picture = Image.new("RGB", size, "white")
        self._draw = ImageDraw.Draw(self.picture)
        self._text(_MARGIN, _MARGIN, title, size[0] - 2 * _MARGIN, "black", ImageFont.load_default(15))

    def put(self, column: int, row: int, picture: Image.Image | None, captions: Sequence[str]) -> None:
        """Draw a picture, or an empty frame if it is None, with lines of text below."""
        left, top = _MARGIN + column * self._width, 2 * _MARGIN + 2 * _LINE + row * self._height
        if picture is None:
            self._draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), "#eeeeee", "#bbbbbb")
            self._text(left + 8, top + _TILE // 2 - 8, "no picture", _TILE, "#888888", self._font)
        else:
            self.picture.paste(picture.resize((_TILE, _TILE), Image.Resampling.BILINEAR), (left, top))
        for line, caption in enumerate(captions):
            color = "black" if line == 0 else "#666666"
            self._text(left, top + _TILE + line * _LINE, caption, self._width - _MARGIN, color, self._font)

    def _text(self, left: int, top: int, text: str, width: int, color: str, font: Any) -> None:
        families = families_for([text])
        pieces = _pieces(text, families, font)
        while text and sum(of_piece.getlength(piece) for of_piece, piece in pieces) > width:
            text = text.removesuffix("…")[:-1] + "…" if len(text) > 1 else ""
            pieces = _pieces(text, families, font)
        baseline = top + font.getmetrics()[0]
        for of_piece, piece in pieces:
            self._draw.text((left, baseline), piece, fill=color, font=of_piece, anchor="ls")
            left += round(of_piece.getlength(piece))


def _pieces(text: str, families: Sequence[str], font: Any) -> list[tuple[Any, str]]:
    """A text as pieces of one font each; Pillow's own has only ASCII and a few signs."""
    if all(" " <= char <= "~" or char == "…" for char in text):
        return [(font, text)]
    return [(ImageFont.truetype(path, font.size), piece) for path, piece in runs(text, families)]
