"""Write the figures, tables and plots of the pages from benchmarks/results, so that no figure is written by hand.

    python benchmarks/tables.py [--check]

What stands between `<!-- from results: NAME -->` and `<!-- end -->` is replaced: a table, a paragraph, or a figure in a
sentence. blocks.py lists their names, plots.py those of the pictures in docs/img.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks import BLOCKS
from plots import PLOTS, draw, drawn_from

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.storage import write_atomically

ROOT = Path(__file__).resolve().parents[1]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

BLOCK = re.compile(r"<!-- from results: ([\w-]+) -->(\n?).*?\n?<!-- end -->", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write the figures, tables and plots of the pages from benchmarks/results."""

    check: bool = False
    """Only say whether they are what the results say; exit code 1 if not."""


def filled(text: str, path: Path) -> str:
    """A file's text with its figures filled in from the results.

    Raises:
        UserError: a block has a name that there is nothing for.
    """

    def block(found: re.Match[str]) -> str:
        name, line = found[1], found[2]  # a table has lines of its own, a figure stands in one
        if name not in BLOCKS:
            raise UserError(f"{path} asks for the table {name!r}; there are {', '.join(BLOCKS)}")
        return f"<!-- from results: {name} -->{line}{BLOCKS[name]()}{line}<!-- end -->"

    return BLOCK.sub(block, text)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/tables", argv)
    stale = []
    for path in FILES:
        text = path.read_text()
        new = filled(text, path)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not settings.check:
                write_atomically(path, new.encode())
    for name, plot in PLOTS.items():
        if drawn_from(name) != plot.digest():
            stale.append(f"docs/img/{name}.png")
            if not settings.check:
                draw(name)
    for name in stale:
        print(f"{name} {'differs from the results' if settings.check else 'is written again'}")
    if settings.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    exit_with(main)
