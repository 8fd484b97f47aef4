"""webdataset: decoded in DataLoader workers, batched there, a shuffle buffer of 1,000."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from typing import Any

import torch
import webdataset
from common import Job, parse_job, report, tars
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

_SOURCE = "https://github.com/webdataset/webdataset#readme"


def with_torchvision(data: bytes) -> torch.Tensor:
    """The decoder of torchvision, which is faster than Pillow."""
    image: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return image


def main(job: Job) -> None:
    """For raw arrays webdataset's own decoder; for JPEG torchvision's."""
    urls = tars(job)
    dataset: Any = webdataset.WebDataset(urls, shardshuffle=len(urls), workersplitter=webdataset.split_by_worker)
    dataset = dataset.shuffle(1000)
    if job.encoding == "raw":
        # Batches of arrays are made in the worker, which is its fastest way and that of its documentation.
        dataset, how = dataset.decode().to_tuple("npy", "cls").batched(job.batch_size), "shuffle, decode, batched"
    else:
        dataset = dataset.to_tuple("jpg", "cls").map_tuple(with_torchvision, int).batched(job.batch_size)
        how = "shuffle, torchvision's decode_jpeg, batched"

    loader = DataLoader(dataset, batch_size=None, num_workers=job.workers, persistent_workers=True)
    how = f"{how} in {job.workers} workers"
    report("webdataset", webdataset.__version__, how, _SOURCE, job, lambda: sum(len(batch[0]) for batch in loader))


if __name__ == "__main__":
    main(parse_job())
