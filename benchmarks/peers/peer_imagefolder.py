"""torchvision's ImageFolder: a JPEG file of 192 px per picture, decoded by DataLoader workers."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torchvision
from common import Job, once, parse_job, report, samples
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image

_SOURCE = "https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html"


def read(path: str) -> torch.Tensor:
    """The decoder of torchvision, which is faster than ImageFolder's default, Pillow."""
    image: torch.Tensor = decode_image(path, ImageReadMode.RGB)
    return image


def main(job: Job) -> None:
    """One file per picture in class folders."""
    if job.encoding != "jpeg":
        sys.exit("ImageFolder reads image files; it has no format for raw pixels")

    def write(folder: Path) -> None:
        for index, (content, label) in enumerate(samples(job)):
            path = folder / "train" / f"{label:04d}" / f"{index:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    dataset = ImageFolder(str(once(job, "imagefolder", write) / "train"), loader=read)
    loader = DataLoader(dataset, job.batch_size, shuffle=True, num_workers=job.workers, persistent_workers=True)
    how = f"ImageFolder, torchvision's decode_image, {job.workers} workers"
    report("ImageFolder", torchvision.__version__, how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader))


if __name__ == "__main__":
    main(parse_job())
