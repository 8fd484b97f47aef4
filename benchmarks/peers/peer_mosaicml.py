"""MosaicML streaming: its MDS shards, decoded in DataLoader workers."""

# /// script
# dependencies = ["mosaicml-streaming==0.13.0"]
# ///

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import streaming
import torch
from common import Job, once, parse_job, pixels, report, samples
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

_SOURCE = "https://docs.mosaicml.com/projects/streaming/"


class Decoded(streaming.StreamingDataset):  # type: ignore[misc]
    """Samples as tensors."""

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        image = sample["image"]
        if isinstance(image, np.ndarray):
            return torch.from_numpy(image), sample["label"]
        return decode_jpeg(torch.frombuffer(bytearray(image), dtype=torch.uint8), ImageReadMode.RGB), sample["label"]


def main(job: Job) -> None:
    """Local shards; JPEG as bytes, decoded by torchvision, which is faster than its own `jpeg` column (Pillow)."""

    def write(folder: Path) -> None:
        column = "ndarray" if job.encoding == "raw" else "bytes"
        with streaming.MDSWriter(out=str(folder / "train"), columns={"image": column, "label": "int"}) as writer:
            for content, label in samples(job):
                writer.write({"image": pixels(content) if job.encoding == "raw" else content, "label": label})

    folder = once(job, "mosaicml", write) / "train"
    streaming.base.util.clean_stale_shared_memory()
    dataset = Decoded(local=str(folder), shuffle=True, batch_size=job.batch_size)
    loader: DataLoader[Any] = DataLoader(dataset, job.batch_size, num_workers=job.workers, persistent_workers=True)
    how = f"StreamingDataset, shuffled, {job.workers} workers"
    name = "MosaicML streaming"
    report(name, version("mosaicml-streaming"), how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader))
    shutil.rmtree(folder / "__epoch__", ignore_errors=True)


if __name__ == "__main__":
    main(parse_job())
