"""A finished run that is resumed says that it is finished, and how to train longer.

Elsewhere it shows a bar of no steps and ends: Nerogar/OneTrainer#132.
"""

from __future__ import annotations

import pytest

from food101_fast.runs.recipe import Recipe
from food101_fast.train.loop import already_finished
from food101_fast.train.state import Progress


@pytest.mark.parametrize(
    ("progress", "patience", "finished"),
    [
        (Progress(epoch=6), 3, False),
        (Progress(epoch=7), 3, True),
        (Progress(epoch=9), 3, True),  # resumed with fewer epochs
        (Progress(epoch=4, epochs_since_best=2), 3, False),
        (Progress(epoch=4, epochs_since_best=3), 3, True),
        (Progress(epoch=4, epochs_since_best=3), None, False),
        (Progress(epoch=7, epochs_since_best=1), None, True),
    ],
)
def test_when_a_run_is_finished(progress: Progress, patience: int | None, finished: bool) -> None:
    assert progress.is_finished(Recipe(epochs=7, patience=patience)) == finished


def test_the_advice_trains_longer() -> None:
    """What it says to give does make the run unfinished."""
    all_epochs, early = Progress(epoch=7), Progress(epoch=5, epochs_since_best=3)
    assert already_finished(all_epochs, Recipe()).endswith("to train longer give --resume --epochs 14")
    assert not all_epochs.is_finished(Recipe(epochs=14))
    assert already_finished(early, Recipe(patience=2)).endswith("to train longer give --resume --patience 5")
    assert not early.is_finished(Recipe(patience=5))
