"""This project with as many threads for raw rows as the others have; one is its default, since one is enough."""

# /// script
# dependencies = []
# ///

from __future__ import annotations

import sys

from common import parse_job
from peer_ours import main

if __name__ == "__main__":
    job = parse_job()
    if job.encoding != "raw":
        sys.exit("for JPEG that is what it does anyway")
    main(job, job.workers)
