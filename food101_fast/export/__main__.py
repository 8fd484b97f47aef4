"""`python -m food101_fast.export`: a run as a program, ONNX and weights with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from food101_fast.cli import exit_with, parse
from food101_fast.export.job import export
from food101_fast.terminal import show


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write a run's model for other programs; the run's shards are not needed.

    A torch.export program and ONNX take uint8 images of any size and return probabilities. Weights as safetensors and a
    model card come with them.
    """

    run: Path
    """Folder of the run."""
    out: Path | None = None
    """New folder to write to; by default `export` in the run."""
    checkpoint: str = "best"
    """Checkpoint of the run: best, last, or one that --keep kept."""
    calibrated: bool = False
    """Divide logits by the temperature that evaluate has fitted on val, inside the programs."""
    onnx: bool = False
    """Also write ONNX; needs the extra: pip install 'food101-fast[onnx]'."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(ExportSettings, "export", argv)
    result = export(
        settings.run, settings.out, checkpoint=settings.checkpoint, onnx=settings.onnx, calibrated=settings.calibrated
    )
    width = max(len(str(path)) for path in result.files)
    for path in result.files:
        difference = result.differences.get(path.name)
        checked = "" if difference is None else f"  probabilities within {difference:.1e}"
        show(f"{path!s:<{width}}  {path.stat().st_size / 1000:>9,.1f} kB{checked}")


if __name__ == "__main__":
    exit_with(main)
