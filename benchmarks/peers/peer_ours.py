"""This project: a thread that gathers raw rows from memory-mapped tars; for JPEG as many as others have workers."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

from common import Job, parse_job, report

import food101_fast
from food101_fast.loader import ShardLoader

_SOURCE = "README.md"


def main(job: Job, threads: int) -> None:
    """The defaults, with so many threads."""
    loader = ShardLoader(job.data, split="train", batch_size=job.batch_size, drop_last=False, threads=threads)
    name = f"food101_fast, {threads} thread{'s' * (threads > 1)}"
    report(
        name, food101_fast.__version__, "ShardLoader", _SOURCE, job, lambda: sum(len(batch.images) for batch in loader)
    )


if __name__ == "__main__":
    job = parse_job()
    main(job, 1 if job.encoding == "raw" else job.workers)
