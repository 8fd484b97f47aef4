"""Hugging Face datasets: photographs to an Arrow file of raw pixels by `map`."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import datasets
from common import report_prepared
from photographs import square


def pixels_of(size: int, row: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a photograph."""
    return {"image": square(row["path"], size).tobytes(), "label": row["label"]}


def write(files: list[tuple[str, int]], out: Path, size: int, workers: int) -> None:
    """`map` with as many processes, then `save_to_disk`."""
    datasets.disable_progress_bars()
    paths, labels = zip(*files, strict=True)
    listed = datasets.Dataset.from_dict({"path": paths, "label": labels})
    features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})
    made = listed.map(
        partial(pixels_of, size),
        remove_columns=["path"],
        features=features,
        num_proc=workers,
        cache_file_name=str(out / "map.arrow"),
    )
    made.save_to_disk(str(out / "train"), num_proc=workers)


if __name__ == "__main__":
    source = "https://huggingface.co/docs/datasets/image_process"
    report_prepared("datasets", datasets.__version__, "map, Pillow with draft", source, write)
