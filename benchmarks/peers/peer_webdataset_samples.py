"""webdataset as most programs use it: samples decoded in DataLoader workers, and put together by DataLoader."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from typing import Any

import webdataset
from common import Job, parse_job, report, tars
from peer_webdataset import with_torchvision
from torch.utils.data import DataLoader

_SOURCE = "https://github.com/webdataset/webdataset#readme"


def main(job: Job) -> None:
    """For raw arrays webdataset's own decoder; for JPEG torchvision's."""
    urls = tars(job)
    dataset: Any = webdataset.WebDataset(urls, shardshuffle=len(urls), workersplitter=webdataset.split_by_worker)
    dataset = dataset.shuffle(1000)
    if job.encoding == "raw":
        dataset, how = dataset.decode().to_tuple("npy", "cls"), "shuffle, decode, DataLoader's batches"
    else:
        dataset = dataset.to_tuple("jpg", "cls").map_tuple(with_torchvision, int)
        how = "shuffle, torchvision's decode_jpeg, DataLoader's batches"
    loader = DataLoader(dataset, job.batch_size, num_workers=job.workers, persistent_workers=True)
    how = f"{how}, {job.workers} workers"
    name = "webdataset, by sample"
    report(name, webdataset.__version__, how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader))


if __name__ == "__main__":
    main(parse_job())
