"""Names of all files in a run's folder; no other module knows them. Those in a checkpoint are in `checkpoint.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from food101_fast.storage.atomic import TEMPORARY_SUFFIX
from food101_fast.storage.locks import OWNER_SUFFIX


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder, whether they exist or not.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """What is trained, on what, and with which versions: `recipe.json`."""
        return self.path / "recipe.json"

    @property
    def lock(self) -> Path:
        """Lock file of the process that trains into the folder."""
        return self.path / ".lock"

    @property
    def epochs(self) -> Path:
        """A line of JSON for each finished epoch: `metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    @property
    def epochs_table(self) -> Path:
        """The same as a table: `metrics.csv`."""
        return self.path / "metrics.csv"

    @property
    def probe(self) -> Path:
        """What a linear probe found: `probe.json`."""
        return self.path / "probe.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Folder of the files of Weights & Biases, which chooses its name."""
        return self.path / "wandb"

    @property
    def tracking(self) -> Path:
        """Folder of what trackers need to continue their own run."""
        return self.path / "tracking"

    def tracked(self, tracker: str) -> Path:
        """How a tracker knows the run: ids of its own."""
        return self.tracking / f"{tracker}.json"

    @property
    def nonfinite(self) -> Path:
        """The first step of those with NaN or Inf gradients that ended a run: `nonfinite.json`."""
        return self.path / "nonfinite.json"

    def replay(self, step: int) -> Path:
        """Folder of what `train --replay` found about a step."""
        return self.path / f"replay-{step}"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """Folder of checkpoint `name`: `last`, `best` or `epoch-0001`."""
        return self.checkpoints / name

    def evaluation(self, split: str, *, ensemble: bool = False) -> Path:
        """Metrics of the best checkpoint on a split, or of the average of several runs."""
        return self.path / f"{split}_{'ensemble_' if ensemble else ''}metrics.json"

    def predictions(self, split: str, *, ensemble: bool = False) -> Path:
        """Predictions that these metrics were computed from."""
        return self.path / f"{_prefix(split)}{'ensemble_' if ensemble else ''}predictions.npz"

    def calibration(self, tta: str = "none") -> Path:
        """The temperature of the best checkpoint's logits: `calibration.json`; with test-time augmentation another."""
        return self.path / f"calibration{'' if tta == 'none' else f'_{tta}'}.json"

    def confusion(self, split: str) -> Path:
        """Picture of the confusion matrix."""
        return self.path / f"{_prefix(split)}confusion_matrix.png"

    @property
    def curves(self) -> Path:
        """Picture of losses and accuracies over the epochs."""
        return self.path / "curves.png"

    @property
    def class_counts(self) -> Path:
        """Picture of how many images each class has in each split."""
        return self.path / "class_counts.png"

    def report(self, split: str, main_split: str = "test") -> Path:
        """The HTML report; that of the main split has no prefix."""
        return self.path / f"{'' if split == main_split else f'{split}_'}report.html"

    @property
    def comparison(self) -> Path:
        """The HTML page that compares other runs with this one."""
        return self.path / "comparison.html"

    def is_before_first_checkpoint(self, name: str) -> bool:
        """Whether a run that ends before its first checkpoint can leave a file or folder of this name."""
        logs = (self.epochs, self.epochs_table, self.tensorboard, self.wandb, self.tracking)
        paths = (self.recipe, self.lock, *logs, self.probe, self.nonfinite, self.checkpoints)
        # A kill leaves files under the temporary names that `write_atomically` gives them.
        name = re.sub(rf"[.]\d+{re.escape(TEMPORARY_SUFFIX)}$", "", name)
        return name in {path.name for path in paths} | {f"{self.lock.name}{OWNER_SUFFIX}"}


def _prefix(split: str) -> str:
    """Prefix of names that do not contain the split."""
    return "" if split == "test" else f"{split}_"
