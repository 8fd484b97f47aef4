"""What our loader's own settings cost: batches, threads, checksums, windows, residence, against the hardware's limits.

    python benchmarks/loader.py --raw DIR --jpeg DIR [--json FILE]

Every figure is images per second of whole epochs in one process, with the page cache warm; the settings take turns, and
the median and the range over the repetitions are given. Busy cores are the process's CPU time over the time that
passed. The ceilings are the same work without a loader: the rows of the same files, in random order, copied one by one
to buffers that take turns (memcpy), and JPEGs decoded one by one into a buffer (simplejpeg, in as many threads).

A first epoch is that of a new loader: it opens and maps the files, allocates the buffers and compares the checksums.
`gather` is what one of the loader's threads does for a batch, without the pipeline around it.
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from published import Measurement
from threadpoolctl import threadpool_limits

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet, Split
from food101_fast.shards.layout import npy_header

# Images of one measurement at the least: an epoch of few images is over too soon to be timed.
_RAW_IMAGES, _JPEG_IMAGES = 200_000, 12_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of our loader with each of its settings."""

    raw: Path
    """Folder of raw shards."""
    jpeg: Path
    """Folder of JPEG shards."""
    json: Path | None = None
    """File to write the results to."""
    batch_size: int = 256
    """Images per batch."""
    small_batch: int = 64
    """Images per batch where the cost of a batch itself is to be seen."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""


def epochs(shards: ShardSet, batch_size: int, least: int, **options: Any) -> Callable[[], int]:
    """Whole epochs of one loader, at least `least` images of them."""
    loader = ShardLoader(shards, split="train", batch_size=batch_size, drop_last=False, **options)

    def run() -> int:
        images = 0
        while images < least:
            images += sum(len(batch.labels) for batch in loader)
        return images

    return run


def first_epochs(shards: ShardSet, batch_size: int, **options: Any) -> Callable[[], int]:
    """The first epoch of a new loader each time."""
    return lambda: epochs(shards, batch_size, 1, **options)()


def one_by_one(
    copy: Callable[[NDArray[np.int64], torch.Tensor], object], split: Split, batch_size: int
) -> Callable[[], int]:
    """`copy` of batches of ids in random order, in this thread alone, into as many buffers as a loader has."""
    buffers = [torch.ones(batch_size, split.row_bytes, dtype=torch.uint8) for _ in range(6)]
    batches = np.array_split(
        np.random.default_rng(0).permutation(len(split)), range(batch_size, len(split), batch_size)
    )

    def run() -> int:
        images = 0
        with threadpool_limits(1, "openmp"):
            while images < _RAW_IMAGES // 4:
                for ids, buffer in zip(batches, itertools.cycle(buffers), strict=False):
                    copy(ids, buffer[: ids.size])
                    images += ids.size
        return images

    return run


def copying(split: Split, batch_size: int) -> Callable[[], int]:
    """A memcpy for each row, out of the same maps; where rows lie was found out before."""
    header = len(npy_header(split.image_size))
    files, _ = split.payloads(np.arange(len(split)))
    addresses = np.array([file.data_ptr() + header for file in files])

    def copy(ids: NDArray[np.int64], out: torch.Tensor) -> None:
        begin = out.data_ptr()
        for index, address in enumerate(addresses[ids].tolist()):
            ctypes.memmove(begin + index * split.row_bytes, address, split.row_bytes)

    return one_by_one(copy, split, batch_size)


def decoding(shards: ShardSet, threads: int) -> Callable[[], int]:
    """Every JPEG decoded once, in `threads` threads that share nothing."""
    split = shards.split("train")
    files = [file.numpy().tobytes() for file in split.payloads(np.arange(len(split)))[0]]

    def work(part: Sequence[bytes]) -> None:
        buffer = np.empty(split.row_bytes, np.uint8)
        for file in part:
            simplejpeg.decode_jpeg(file, "RGB", buffer=buffer)

    def run() -> int:
        workers = [threading.Thread(target=work, args=(files[first::threads],)) for first in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return len(files)

    return run


def contenders(settings: Settings) -> Iterator[tuple[str, Callable[[], int]]]:
    """Everything that is measured, by name."""
    raw, jpeg = ShardSet.open(settings.raw), ShardSet.open(settings.jpeg)
    if raw.manifest.encoding != "raw" or jpeg.manifest.encoding != "jpeg":
        raise UserError(f"--raw {settings.raw} and --jpeg {settings.jpeg} should be folders of raw and of JPEG shards")
    split = raw.split("train", verify="never")
    for batch in (settings.batch_size, settings.small_batch):
        yield f"raw: memcpy of rows, batch {batch}, 1 thread (ceiling)", copying(split, batch)
        yield f"raw: gather, batch {batch}, 1 thread", one_by_one(split.gather, split, batch)
        yield f"raw: loader, batch {batch}, 1 thread", epochs(raw, batch, _RAW_IMAGES, threads=1)
        yield f"raw: first epoch, batch {batch}, 1 thread", first_epochs(raw, batch, threads=1)
        yield f"raw: first epoch, batch {batch}, default threads", first_epochs(raw, batch)
        unchecked = first_epochs(raw, batch, verify="never")
        yield f"raw: first epoch, batch {batch}, default threads, verify never", unchecked
    size = settings.batch_size
    for threads in (1, 2):
        for verify in ("never", "first-epoch", "always"):
            name = f"raw: {threads} thread{'s' * (threads > 1)}, verify {verify}"
            yield name, epochs(raw, size, _RAW_IMAGES, threads=threads, verify=verify)
    yield "raw: 1 thread, window 10,000", epochs(raw, size, _RAW_IMAGES, threads=1, window=10_000)
    yield "raw: 1 thread, residence host", epochs(raw, size, _RAW_IMAGES, threads=1, residence="host")
    for threads in (1, 2):
        yield f"jpeg: simplejpeg alone, {threads} threads (ceiling)", decoding(jpeg, threads)
        yield f"jpeg: {threads} threads", epochs(jpeg, size, _JPEG_IMAGES, threads=threads)
    yield "jpeg: 2 threads, verify always", epochs(jpeg, size, _JPEG_IMAGES, threads=2, verify="always")
    yield "jpeg: 1 thread, residence host", epochs(jpeg, size, _RAW_IMAGES, threads=1, residence="host")


def bytes_per_image(shards: ShardSet) -> float:
    """What an image of the train split takes on the disk, with all headers."""
    split = shards.manifest.splits["train"]
    return sum(shard.bytes for shard in split.shards) / split.samples


def measure(run: Callable[[], int]) -> tuple[float, float]:
    """Images per second, and busy cores."""
    begun, busy = time.perf_counter(), time.process_time()
    images = run()
    lasted = time.perf_counter() - begun
    return images / lasted, (time.process_time() - busy) / lasted


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/loader", argv)
    measurement = Measurement(settings.json)
    runs = dict(contenders(settings))
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(settings.repetitions + 1):
        for name, run in runs.items():
            rates[name].append(measure(run))
    print(f"{'':<64}{'images/s':>10}{'lowest':>10}{'highest':>10}{'cores':>7}")
    for name, values in rates.items():
        speeds = [speed for speed, _ in values[1:]]
        cores = statistics.median(busy for _, busy in values[1:])
        print(f"{name:<64}{statistics.median(speeds):>10,.0f}{min(speeds):>10,.0f}{max(speeds):>10,.0f}{cores:>7.2f}")
    sets = {"raw": ShardSet.open(settings.raw), "jpeg": ShardSet.open(settings.jpeg)}
    measurement.publish(
        {
            "batch_size": settings.batch_size,
            "small_batch": settings.small_batch,
            "repetitions": settings.repetitions,
        },
        samples={name: shards.manifest.splits["train"].samples for name, shards in sets.items()},
        bytes_per_image={name: bytes_per_image(shards) for name, shards in sets.items()},
        stored_size=sets["raw"].manifest.image_size,
        results={
            name: {
                "images_per_second": [speed for speed, _ in values[1:]],
                "busy_cores": [busy for _, busy in values[1:]],
            }
            for name, values in rates.items()
        },
    )


if __name__ == "__main__":
    exit_with(main)
