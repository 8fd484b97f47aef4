"""FFCV: its own file, read through the page cache by compiled threads."""

# /// script
# dependencies = ["ffcv==1.0.2", "numba", "opencv-python"]
# ///

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import simplejpeg
from common import Job, once, parse_job, pixels, report, samples
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

_SOURCE = "https://docs.ffcv.io/performance_guide.html"


class Pictures:
    """The pictures as arrays, which is what FFCV encodes by itself."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._files = list(samples(job))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        content, label = self._files[index]
        return (pixels(content) if self._job.encoding == "raw" else simplejpeg.decode_jpeg(content)), label


def main(job: Job) -> None:
    """As its documentation has it for data that fit into memory: random order, the page cache as cache."""

    def write(folder: Path) -> None:
        mode = "raw" if job.encoding == "raw" else "jpg"
        fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=90), "label": IntField()}
        DatasetWriter(str(folder / "train.beton"), fields, num_workers=1).from_indexed_dataset(Pictures(job))

    loader = Loader(
        str(once(job, "ffcv", write) / "train.beton"),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    how = f"Loader, random order, {job.workers} threads"
    report("FFCV", version("ffcv"), how, _SOURCE, job, lambda: sum(len(images) for images, _ in loader))


if __name__ == "__main__":
    main(parse_job())
