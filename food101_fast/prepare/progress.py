"""The progress bar of `prepare`."""

from __future__ import annotations

from tqdm import tqdm


def progress_bar(name: str, total: int, initial: int = 0) -> tqdm[None]:
    """A bar that counts images, of which `initial` were there before."""
    return tqdm(total=total, initial=initial, desc=name, unit="images", smoothing=0.05)


def advance(bar: tqdm[None], done: int) -> None:
    """Show that so many images are done in all."""
    if not bar.disable and done > bar.n == bar.initial:  # a disabled bar (TQDM_DISABLE) has no `initial`
        bar.unpause()  # so that the rate leaves out the start of the workers
    bar.update(done - bar.n)
