"""The way of the notebook that this project replaces: photographs of 512 px decoded by Pillow in every epoch."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

import sys

import torch
import torchvision
from common import Job, parse_job, report
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

# So many are enough to time it: an epoch of all would take minutes.
_PHOTOGRAPHS = 2000

_SOURCE = "its transforms at their defaults"


def main(job: Job) -> None:
    """ImageFolder on the original files, with the notebook's transforms image by image."""
    if job.encoding != "jpeg":
        sys.exit("the notebook reads photographs")
    per_image = transforms.Compose(
        [
            transforms.RandomResizedCrop(160),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = ImageFolder(str(job.photos), transform=per_image)
    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[:_PHOTOGRAPHS].tolist()
    loader = DataLoader(
        Subset(files, chosen), job.batch_size, shuffle=True, num_workers=job.workers, persistent_workers=True
    )
    how = f"Pillow, 512 px to 160 px with its augmentation, {job.workers} workers"
    version = torchvision.__version__
    report("the notebook", version, how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader), len(chosen))


if __name__ == "__main__":
    main(parse_job())
