"""The progress bar of `prepare`."""

from __future__ import annotations

from typing import Any

from food101_fast.progress import bar


def progress_bar(name: str, total: int, initial: int = 0) -> Any:
    """A bar that counts images; `initial` of them were done by an earlier run."""
    return bar(total=total, initial=initial, desc=name, unit=" images", smoothing=0.05)


def advance(bar: Any, done: int) -> None:
    """Show that `done` images are done in total."""
    if not bar.disable and done > bar.n == bar.initial:  # a disabled bar (TQDM_DISABLE) has no `initial`
        bar.unpause()  # so that the start of the workers does not count for the rate
    bar.update(done - bar.n)
