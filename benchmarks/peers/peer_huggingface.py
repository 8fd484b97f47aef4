"""Hugging Face datasets: an Arrow file on the disk, as tensors through DataLoader workers."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from common import Job, once, parse_job, pixels, report, samples
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg


def decoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
    """JPEG bytes, which torchvision decodes faster than the Image feature (Pillow), as tensors."""
    files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in batch["image"]]
    return {"image": [decode_jpeg(file, ImageReadMode.RGB) for file in files], "label": batch["label"]}


def main(job: Job) -> None:
    """Raw pictures as fixed-shape arrays in torch format, JPEG as bytes with a transform."""

    def write(folder: Path) -> None:
        def rows() -> Iterator[dict[str, Any]]:
            for content, label in samples(job):
                yield {"image": pixels(content) if job.encoding == "raw" else content, "label": label}

        kind = datasets.Array3D((192, 192, 3), "uint8") if job.encoding == "raw" else datasets.Value("binary")
        features = datasets.Features({"image": kind, "label": datasets.Value("int64")})
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
        made.save_to_disk(str(folder / "train"))

    dataset = datasets.load_from_disk(str(once(job, "huggingface", write) / "train"))
    dataset = dataset.with_format("torch") if job.encoding == "raw" else dataset.with_transform(decoded)
    loader = DataLoader(
        dataset, job.batch_size, shuffle=True, num_workers=job.workers, persistent_workers=True, prefetch_factor=4
    )
    how = f"Arrow on the disk, DataLoader, {job.workers} workers"
    report("datasets", datasets.__version__, how, job, lambda: sum(len(batch["image"]) for batch in loader))


if __name__ == "__main__":
    main(parse_job())
