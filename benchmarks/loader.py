"""What our loader's own settings cost: threads, checksums, windows and residence, against the ceilings of the machine.

    python benchmarks/loader.py --raw DIR --jpeg DIR [--json FILE]

Every figure is images per second of whole epochs in one process, with the page cache warm; the settings take turns, and
the median and the range over the repetitions are given. Busy cores are the process's CPU time over the time that
passed. The ceilings are the same work without a loader: rows copied one by one from one array to another (memcpy), and
JPEGs decoded one by one into a buffer (simplejpeg, in as many threads).
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet

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
    repetitions: int = 5
    """Repetitions, after one that is not counted."""


def epochs(shards: ShardSet, settings: Settings, least: int, **options: Any) -> Callable[[], int]:
    """Whole epochs of one loader, at least `least` images of them."""
    loader = ShardLoader(shards, split="train", batch_size=settings.batch_size, drop_last=False, **options)

    def run() -> int:
        images = 0
        while images < least:
            images += sum(len(batch.labels) for batch in loader)
        return images

    return run


def first_epochs(shards: ShardSet, settings: Settings, **options: Any) -> Callable[[], int]:
    """The first epoch of a new loader each time, in which every checksum is compared."""
    return lambda: epochs(shards, settings, 1, **options)()


def copying(shards: ShardSet, settings: Settings) -> Callable[[], int]:
    """A loop that copies rows of the same size, in random order, into batch buffers that take turns."""
    row_bytes = shards.split("train").row_bytes
    source = np.ones((8 * settings.batch_size, row_bytes), np.uint8)
    buffers = [np.ones((settings.batch_size, row_bytes), np.uint8) for _ in range(6)]
    rng = np.random.default_rng(0)

    def run() -> int:
        images = 0
        while images < _RAW_IMAGES // 4:
            buffer = buffers[images // settings.batch_size % len(buffers)]
            for place, row in enumerate(rng.integers(0, len(source), settings.batch_size).tolist()):
                buffer[place] = source[row]
            images += settings.batch_size
        return images

    return run


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
    yield "raw: memcpy of rows, 1 thread (ceiling)", copying(raw, settings)
    for threads in (1, 2):
        for verify in ("never", "first-epoch", "always"):
            name = f"raw: {threads} thread{'s' * (threads > 1)}, verify {verify}"
            yield name, epochs(raw, settings, _RAW_IMAGES, threads=threads, verify=verify)
    yield "raw: 1 thread, the first epoch with its checksums", first_epochs(raw, settings, threads=1)
    yield "raw: 1 thread, window 10,000", epochs(raw, settings, _RAW_IMAGES, threads=1, window=10_000)
    yield "raw: 1 thread, residence host", epochs(raw, settings, _RAW_IMAGES, threads=1, residence="host")
    for threads in (1, 2):
        yield f"jpeg: simplejpeg alone, {threads} threads (ceiling)", decoding(jpeg, threads)
        yield f"jpeg: {threads} threads", epochs(jpeg, settings, _JPEG_IMAGES, threads=threads)
    yield "jpeg: 2 threads, verify always", epochs(jpeg, settings, _JPEG_IMAGES, threads=2, verify="always")
    yield "jpeg: 1 thread, residence host", epochs(jpeg, settings, _RAW_IMAGES, threads=1, residence="host")


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
    print(f"{'':<52}{'images/s':>10}{'lowest':>10}{'highest':>10}{'cores':>7}")
    for name, values in rates.items():
        speeds = [speed for speed, _ in values[1:]]
        cores = statistics.median(busy for _, busy in values[1:])
        print(f"{name:<52}{statistics.median(speeds):>10,.0f}{min(speeds):>10,.0f}{max(speeds):>10,.0f}{cores:>7.2f}")
    sets = {"raw": ShardSet.open(settings.raw), "jpeg": ShardSet.open(settings.jpeg)}
    measurement.publish(
        {"batch_size": settings.batch_size, "repetitions": settings.repetitions},
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
