"""The temperature of a run: its logits are divided by it, so that probabilities are as high as they are right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import orjson
from annotated_types import Gt

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.run import read_run
from food101_fast.storage import write_atomically, writing


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A fitted temperature: the content of a run's `calibration.json`."""

    temperature: Annotated[float, Gt(0)]
    """Logits are divided by it before the softmax. Above 1 the model was too sure of itself."""
    split: str
    """Split that it was fitted on."""
    samples: int
    """Images of that split."""
    tta: str
    """Test-time augmentation of the logits: none, flip or crops."""
    weights: str
    """XXH3-64 of the checkpoint's weights, 16 hexadecimal digits."""

    def __post_init__(self) -> None:
        check_limits(self)


def write_temperature(folder: Path, fitted: Temperature) -> Path:
    """Write a run's temperature; returns the file.

    Raises:
        UserError: it could not be written.
    """
    path = RunFolder(folder).calibration(fitted.tta)
    with writing(path, "then evaluate again"):
        write_atomically(path, orjson.dumps(asdict(fitted), option=orjson.OPT_INDENT_2))
    return path


def read_temperature(folder: Path, *, weights: str, tta: str = "none") -> Temperature | None:
    """The temperature that was fitted for these weights; None if there is none.

    Args:
        folder: of the run.
        weights: hash of a checkpoint's weights.
        tta: test-time augmentation of the logits.

    Raises:
        UserError: the file is damaged.
    """
    path = RunFolder(folder).calibration(tta)
    if not path.is_file():
        return None
    fitted = parse(path.read_bytes(), Temperature, where=str(path), advice="evaluate the run again")
    return fitted if fitted.weights == weights else None


def temperature_of(folder: Path, checkpoint: str = "best") -> float:
    """The temperature for a checkpoint of a run.

    Raises:
        UserError: none was fitted for its weights.
    """
    weights = weights_hash(folder, checkpoint)
    fitted = read_temperature(folder, weights=weights)
    if fitted is not None:
        return fitted.temperature
    if weights != weights_hash(folder, "best"):
        raise UserError(f"--calibrated needs --checkpoint best, since only that is evaluated, and not {checkpoint}")
    main = read_run(folder).main_split
    split = "" if main == "test" else f" --split {main}"
    raise UserError(
        f"{folder} has no temperature for its weights yet, which --calibrated needs; run `python -m "
        f"food101_fast.evaluate --run {folder}{split}` first"
    )
