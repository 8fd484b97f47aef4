"""This project: threads that gather from memory-mapped tars."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from common import Job, parse_job, report

import food101_fast
from food101_fast.loader import ShardLoader


def main(job: Job) -> None:
    """One thread gathers raw rows; JPEG is decoded by as many as the others have workers."""
    threads = 1 if job.encoding == "raw" else job.workers
    loader = ShardLoader(job.data, split="train", batch_size=job.batch_size, drop_last=False, threads=threads)
    how = f"ShardLoader, {threads} thread{'s' * (threads > 1)}"
    report("food101_fast", food101_fast.__version__, how, job, lambda: sum(len(batch.images) for batch in loader))


if __name__ == "__main__":
    main(parse_job())
