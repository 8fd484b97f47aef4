"""SPDL: JPEG files read and decoded by threads, through FFmpeg; there is no raw format."""

# /// script
# dependencies = ["spdl==0.8.0"]
# ///

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import spdl.io
from common import Job, once, parse_job, report, samples
from spdl.pipeline import PipelineBuilder

_SOURCE = "https://facebookresearch.github.io/spdl/main/"


def main(job: Job) -> None:
    """A shuffled list of files, batches of them decoded by `load_image_batch` in threads."""
    if job.encoding != "jpeg":
        sys.exit("SPDL decodes files; it has no format for raw pixels")

    def write(folder: Path) -> None:
        for index, (content, label) in enumerate(samples(job)):
            (folder / f"{index:06d}-{label}.jpg").write_bytes(content)

    files = sorted(map(str, once(job, "spdl", write).glob("*.jpg")))

    def batches() -> Iterator[list[str]]:
        order = random.sample(files, len(files))
        return (order[first : first + job.batch_size] for first in range(0, len(order), job.batch_size))

    def load(batch: list[str]) -> int:
        frames = spdl.io.load_image_batch(batch, width=192, height=192, pix_fmt="rgb24", strict=True)
        return int(spdl.io.to_torch(frames).shape[0])

    def epoch() -> int:
        builder = PipelineBuilder().add_source(batches()).pipe(load, concurrency=job.workers).add_sink(4)
        with (pipeline := builder.build(num_threads=job.workers)).auto_stop():
            return sum(pipeline)

    report("SPDL", version("spdl"), f"load_image_batch, {job.workers} threads", _SOURCE, job, epoch)


if __name__ == "__main__":
    main(parse_job())
