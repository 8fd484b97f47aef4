"""Enough photographs to time a program on, out of the few that there are."""

from __future__ import annotations

from pathlib import Path

from food101_fast.errors import UserError


def repeat_files(source: Path, target: Path, files: int) -> list[tuple[str, int]]:
    """Fill `target` with at least `files` files in class folders.

    A copy is made different from its original by bytes after the end of the image, which no decoder looks at, so that
    it is no duplicate.

    Args:
        source: folder with a folder of JPEGs for each class.
        target: where the files go.
        files: how many at the least.

    Returns:
        Their paths and labels.

    Raises:
        UserError: `source` has no JPEGs.
    """
    originals = sorted(source.rglob("*.jpg"))
    if not originals:
        raise UserError(f"{source} has no .jpg files; give a folder with one folder of JPEGs per class")
    classes = sorted({path.parent.name for path in originals})
    made = []
    for copy in range(-(-files // len(originals))):
        for path in originals:
            name = target / path.parent.name / f"{path.stem}-{copy}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(path.read_bytes() + bytes([copy % 256]) * copy)
            made.append((str(name), classes.index(path.parent.name)))
    return made
