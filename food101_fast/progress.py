"""What commands show while they work: bars on stderr and lines on stdout, less of both with `--quiet` and `--json`.

In a notebook with ipywidgets the bars are widgets. Programs that call the package's functions see what the commands
show by default; `shown(Output(quiet=True))` around a call, or TQDM_DISABLE=1 for the bars, changes that.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from food101_fast.terminal import wrapped

if "ipykernel" in sys.modules:  # a notebook; ipywidgets takes a tenth of a second to import, which commands do without
    from tqdm.auto import tqdm as Bar
    from tqdm.notebook import tqdm_notebook

    _ARE_WIDGETS = issubclass(Bar, tqdm_notebook)
else:
    from tqdm import tqdm as Bar

    _ARE_WIDGETS = False

_SECONDS_PER_REFRESH = 0.2
_SECONDS_PER_LOGGED_BAR = 10.0  # where each refresh becomes a line of its own


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command prints besides its result."""

    quiet: bool = False
    """Show no progress: only the result, warnings and errors."""
    json: bool = False
    """Print the result as JSON, and nothing else on stdout."""


_output = Output()


@contextlib.contextmanager
def shown(output: Output) -> Iterator[None]:
    """A context in which `bar` and `say` follow `output`, in all threads."""
    global _output
    before, _output = _output, output
    try:
        yield
    finally:
        _output = before


def bar(*arguments: Any, only_live: bool = False, **named: Any) -> Any:
    """A bar of tqdm, with its arguments; disabled if `quiet`, and then without some attributes, such as `initial`.

    With `only_live` it is also disabled where a refresh can't replace what was there, as in a file.
    """
    live = sys.stderr.isatty() or _ARE_WIDGETS
    named = {"mininterval": _SECONDS_PER_REFRESH if live else _SECONDS_PER_LOGGED_BAR} | named
    if _output.quiet or (only_live and not live):
        named["disable"] = True  # else not given, which would overrule TQDM_DISABLE
    return Bar(*arguments, **named)


def say(line: str) -> None:
    """Print a line of progress above the bars: on stdout, or on stderr if stdout is for JSON."""
    if not _output.quiet:
        _write(line, sys.stderr if _output.json else sys.stdout)


def note(line: str) -> None:
    """Print a line of progress above the bars, on stderr."""
    if not _output.quiet:
        _write(line, sys.stderr)


def warn(line: str) -> None:
    """Print a warning above the bars, on stderr, even if `quiet`."""
    _write(f"warning: {line}", sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    Bar.write(wrapped(line, stream), file=stream)
    stream.flush()
