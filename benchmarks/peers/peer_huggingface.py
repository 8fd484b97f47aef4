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

_SOURCE = "https://huggingface.co/docs/datasets/use_with_pytorch"


def tensor(content: bytes, encoding: str) -> torch.Tensor:
    """A picture out of its bytes; torchvision decodes faster than the Image feature (Pillow)."""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return data.view(192, 192, 3) if encoding == "raw" else decode_jpeg(data, ImageReadMode.RGB)


def main(job: Job) -> None:
    """Bytes with a transform, several times as fast as arrays of fixed shape (Array3D) in torch format."""

    def write(folder: Path) -> None:
        def rows() -> Iterator[dict[str, Any]]:
            for content, label in samples(job):
                yield {"image": pixels(content).tobytes() if job.encoding == "raw" else content, "label": label}

        features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
        made.save_to_disk(str(folder / "train"))

    def decoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {"image": [tensor(content, job.encoding) for content in batch["image"]], "label": batch["label"]}

    dataset = datasets.load_from_disk(str(once(job, "huggingface", write) / "train")).with_transform(decoded)
    loader = DataLoader(
        dataset, job.batch_size, shuffle=True, num_workers=job.workers, persistent_workers=True, prefetch_factor=4
    )
    how = f"Arrow on the disk, DataLoader, {job.workers} workers"
    report("datasets", datasets.__version__, how, _SOURCE, job, lambda: sum(len(batch["image"]) for batch in loader))


if __name__ == "__main__":
    main(parse_job())
