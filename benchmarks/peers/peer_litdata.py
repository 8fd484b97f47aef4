"""LitData: chunks of optimized samples, read by its streaming data loader."""

# /// script
# dependencies = ["litdata==0.2.76"]
# ///

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import torch
from common import Job, once, parse_job, pixels, report, samples
from torchvision.io import ImageReadMode, decode_jpeg

_SOURCE = "https://github.com/Lightning-AI/litData#readme"


def sample_of(encoding: str, sample: tuple[bytes, int]) -> Any:
    """What is stored of a sample."""
    content, label = sample
    if encoding == "raw":
        return torch.from_numpy(pixels(content)), label
    return content, label


def decoded(sample: tuple[Any, int]) -> tuple[torch.Tensor, int]:
    """JPEG bytes as a tensor."""
    content, label = sample
    if isinstance(content, torch.Tensor):
        return content, label
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB), label


def main(job: Job) -> None:
    """Local chunks of 64 MB, JPEG as bytes that torchvision decodes."""

    def write(folder: Path) -> None:
        # By default it empties /tmp/data and /tmp/chunks, whoever they belong to.
        os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(folder / "data")
        os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(folder / "chunks")
        litdata.optimize(
            fn=partial(sample_of, job.encoding),
            inputs=list(samples(job)),
            output_dir=str(folder / "train"),
            chunk_bytes="64MB",
            num_workers=1,
        )

    folder = once(job, "litdata", write) / "train"
    dataset = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False, transform=decoded)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=job.batch_size, num_workers=job.workers, persistent_workers=True
    )
    how = f"StreamingDataLoader, shuffled, {job.workers} workers"
    report("LitData", litdata.__version__, how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader))


if __name__ == "__main__":
    main(parse_job())
