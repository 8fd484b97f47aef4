"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from food101_fast.runs.folder import RunFolder
from food101_fast.train.trackers.tracker import Ended, TrackedRun


class TensorBoard:
    """Event files, which `tensorboard --logdir` shows.

    Events of steps that a resumed run computes again are from before an interruption; TensorBoard drops them.

    Args:
        run: that is tracked.
    """

    address = None

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(RunFolder(run.folder).tensorboard), purge_step=run.step + 1)
        self._last = run.step
        table = "\n".join(f"| {name} | {value} |" for name, value in run.facts.items())
        self._writer.add_text("recipe", f"| name | value |\n|---|---|\n{table}", run.step + 1)

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """A curve for each name; those with the same text before the slash are together."""
        self._last = step
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    totals = metrics

    def report(self, page: Path, pictures: Sequence[Path]) -> None:
        """The pictures. TensorBoard shows no HTML."""
        for path in pictures:
            with Image.open(path) as picture:
                self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), self._last, dataformats="HWC")

    def artifact(self, name: str, folder: Path) -> None:
        """TensorBoard stores no files: nothing is logged."""

    def close(self, ended: Ended) -> None:
        """Write pending events and close the files."""
        self._writer.close()
