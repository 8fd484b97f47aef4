"""What the peers share: their command line, the pictures, and how an epoch is timed. Needs NumPy and this project.

A peer is a script that peers.py calls in an environment of its own, which its PEP 723 block names. It prints one line
of JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from food101_fast.processes import family, processor_seconds

# An epoch of few images is over too soon to be timed.
_LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """What a peer is asked for."""

    encoding: str
    """`raw` or `jpeg`: how the pictures are stored."""
    data: Path
    """Folder of our shards with this encoding; their train split is what everybody reads."""
    photos: Path
    """Class folders with the photographs that the shards were made from."""
    work: Path
    """Where a peer writes its own format, once."""
    workers: int
    batch_size: int
    repetitions: int


def parse_job() -> Job:
    """The job from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoding", choices=("raw", "jpeg"), required=True)
    for name in ("data", "photos", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("workers", "batch-size", "repetitions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return Job(**vars(parser.parse_args()))


def tars(job: Job) -> list[str]:
    """The tars of the train split."""
    return sorted(str(path) for path in job.data.glob("train-*.tar"))


def samples(job: Job) -> Iterator[tuple[bytes, int]]:
    """Content of the `.npy` or `.jpg`, and label, of every picture."""
    for path in tars(job):
        with tarfile.open(path) as tar:
            label = -1
            for member in tar:
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".cls"):
                    label = int(content)
                else:
                    yield content, label


def pixels(content: bytes) -> np.ndarray:
    """The array of a `.npy`: uint8 (H, W, 3)."""
    array: np.ndarray = np.load(io.BytesIO(content))
    return array


def count(job: Job) -> int:
    """Pictures in the train split."""
    return sum(len(np.load(path.replace(".tar", ".index.npy"), mmap_mode="r")) for path in tars(job))


def once(job: Job, name: str, write: Callable[[Path], None]) -> Path:
    """The folder in which a peer has its own format; written by `write` if it is not there yet."""
    folder = job.work / f"{name}-{job.encoding}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        (folder / "complete").touch()
    return folder


def report(
    name: str, version: str, how: str, source: str, job: Job, epoch: Callable[[], int], expected: int | None = None
) -> None:
    """Time whole epochs, a second of them at the least, after as many that are not counted; print what came out.

    Args:
        name: of the peer.
        version: of the peer.
        how: it was set up, in a few words.
        source: where these settings are recommended.
        job: what was asked for.
        epoch: goes through one epoch, and returns the number of images that arrived.
        expected: images in an epoch; by default the whole train split.
    """
    expected = count(job) if expected is None else expected
    rates, cores = [], []
    for number in range(job.repetitions + 1):
        images, begun, busy = 0, time.perf_counter(), cpu_seconds()
        while not images or time.perf_counter() - begun < _LEAST_SECONDS:
            arrived = epoch()
            if arrived != expected:
                sys.exit(f"{name} delivered {arrived} images of {expected}")
            images += arrived
        lasted = time.perf_counter() - begun
        if number:
            rates.append(images / lasted)
            cores.append((cpu_seconds() - busy) / lasted)
    result = {"name": name, "version": version, "how": how, "source": source, "images": expected}
    print(json.dumps({**result, "images_per_second": rates, "busy_cores": cores}))


def cpu_seconds() -> float:
    """Processor time of this process and all that it has started and that still run (Linux)."""
    return sum(map(processor_seconds, family(os.getpid())))


def report_prepared(
    name: str, version: str, how: str, source: str, write: Callable[[list[tuple[str, int]], Path, int, int], None]
) -> None:
    """Time how long a peer takes to prepare photographs once, until they are on the disk; print what came out.

    Args:
        name: of the peer.
        version: of the peer.
        how: it was set up, in a few words.
        source: where these settings are recommended.
        write: prepares files, given as paths and labels, into a folder, at a size in pixels, with so many workers.
    """
    parser = argparse.ArgumentParser()
    for name_of_path in ("photos", "out"):
        parser.add_argument(f"--{name_of_path}", type=Path, required=True)
    for number in ("size", "workers"):
        parser.add_argument(f"--{number}", type=int, required=True)
    job = parser.parse_args()
    classes = sorted(path.name for path in job.photos.iterdir())
    files = [(str(path), classes.index(path.parent.name)) for path in sorted(job.photos.glob("*/*.jpg"))]
    random.Random(0).shuffle(files)
    os.sync()
    begun = time.perf_counter()
    write(files, job.out, job.size, job.workers)
    os.sync()
    lasted = time.perf_counter() - begun
    result = {"name": name, "version": version, "how": how, "source": source}
    print(json.dumps({**result, "images": len(files), "seconds": lasted}))
