"""LitData's optimize: photographs to its chunks of tensors."""

# /// script
# dependencies = ["litdata==0.2.76"]
# ///

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import litdata
import torch
from common import report_prepared
from photographs import square


def sample_of(size: int, file: tuple[str, int]) -> tuple[torch.Tensor, int]:
    """What is stored of a photograph."""
    return torch.from_numpy(square(file[0], size).copy()), file[1]


def write(files: list[tuple[str, int]], out: Path, size: int, workers: int) -> None:
    """Chunks of 64 MB, with as many processes."""
    # By default it empties /tmp/data and /tmp/chunks, whoever they belong to.
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(out / "data")
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(out / "chunks")
    litdata.optimize(
        fn=partial(sample_of, size),
        inputs=files,
        output_dir=str(out / "train"),
        chunk_bytes="64MB",
        num_workers=workers,
    )


if __name__ == "__main__":
    source = "https://github.com/Lightning-AI/litData#readme"
    report_prepared("LitData", litdata.__version__, "optimize, Pillow with draft", source, write)
