"""Text as wide as the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO

_INDENT = "  "


def wrapped(text: str, stream: TextIO) -> str:
    """`text` with lines that fit the terminal, whose further lines are indented. Words, such as paths, stay whole.

    In a file or a pipe, where a program may read them, lines stay as they are.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line if len(line) <= width else _filled(line, width) for line in text.split("\n"))


def show(text: str) -> None:
    """Print `text` on stdout, with lines that fit the terminal."""
    print(wrapped(text, sys.stdout))


def _filled(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, width, subsequent_indent=indent + _INDENT, break_long_words=False, break_on_hyphens=False
    )
