"""The progress bar of `prepare`, and what it says meanwhile."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(name: str, total: int, initial: int = 0) -> tqdm[None]:
    """A bar that counts images; `initial` of them were done by an earlier run."""
    return tqdm(total=total, initial=initial, desc=name, unit="images", smoothing=0.05)


def advance(bar: tqdm[None], done: int) -> None:
    """Show that `done` images are done in total."""
    if not bar.disable and done > bar.n == bar.initial:  # a disabled bar (TQDM_DISABLE) has no `initial`
        bar.unpause()  # so that the start of the workers does not count for the rate
    bar.update(done - bar.n)


def say(line: str) -> None:
    """Print a line on stderr, above a progress bar."""
    tqdm.write(line, file=sys.stderr)
