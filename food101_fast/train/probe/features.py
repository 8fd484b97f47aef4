"""Features of a split as a memory-mapped file in the cache: computed once, and reused by later probes.

A file is found by what its numbers depend on: the images, the backbone's weights, and how an image becomes its input.
A damaged file, or one that was not written to its end, is computed again.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.compute.logits import predict
from food101_fast.compute.precision import Precision
from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.progress import bar
from food101_fast.runs.probe import FeatureFile
from food101_fast.shards.cache import cache_settings, writing_to_cache
from food101_fast.storage import replacing, write_atomically
from food101_fast.train.probe.extractor import FeatureExtractor
from food101_fast.transforms import EvalSpec

_FOLDER = "features"
_BLOCK_ROWS = 4096
# A batch is copied to the host while the device computes the next one.
_PENDING = 2


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """What the features of a split depend on."""

    data: str
    """Digest of the shards' manifest."""
    split: str
    model: str
    weights: str
    """Digest of the backbone's weights."""
    spec: EvalSpec
    """How a stored image becomes the model's input."""
    precision: str
    """`fp16`, `bf16` or `float32`."""

    @property
    def path(self) -> Path:
        """Of the features in the cache. A full cache removes files by their time of access, as it does with shards."""
        digest = xxhash.xxh3_64_hexdigest(orjson.dumps(asdict(self) | {"split": ""}))
        name = re.sub(r"[^\w.-]+", "-", self.model)
        return cache_settings(None, None).directory / _FOLDER / f"{name}-{digest}" / f"{self.split}.npy"


@dataclass(frozen=True, kw_only=True)
class _Note:
    """The file beside the features, written after them."""

    key: FeatureKey
    samples: int
    size: int
    """Features of an image."""
    xxh3_64: str
    """Hash of all features."""
    seconds: float
    """That it took to compute them."""


def features_of(
    key: FeatureKey,
    backbone: FeatureExtractor,
    loader: Callable[[], ShardLoader],
    precision: Precision,
    stopping: Callable[[], None],
) -> tuple[NDArray[np.float32], FeatureFile]:
    """Features of a split, float32 (samples, size), in the order of the samples, memory-mapped; computed if needed.

    Args:
        key: of the features.
        backbone: on the loader's device.
        loader: makes the loader of the split, of each sample once, in order; not called if there is a file.
        precision: to compute in.
        stopping: called after each batch; may raise to interrupt, and then nothing is kept.

    Raises:
        UserError: the cache can't be written, the shards can't be read, or a feature is NaN or Inf.
    """
    path = key.path
    note, reused = _valid(key, backbone.size), True
    if note is None:
        note, reused = _computed(key, backbone, loader(), precision, stopping), False
    array = np.load(path, mmap_mode="c", allow_pickle=False)  # c: torch warns of arrays that it could not write to
    file = FeatureFile(
        split=key.split,
        samples=note.samples,
        size=note.size,
        path=str(path),
        bytes=array.nbytes,
        seconds=note.seconds,
        reused=reused,
    )
    return array, file


def _valid(key: FeatureKey, size: int) -> _Note | None:
    """The note of a whole and undamaged file; None if there is none."""
    path = key.path
    try:
        note = parse(_note_path(path).read_bytes(), _Note, where=str(path), advice="")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, UserError):
        return None
    if note.key != key or array.shape != (note.samples, size) or array.dtype != np.float32:
        return None
    hashed = xxhash.xxh3_64()
    for first in range(0, len(array), _BLOCK_ROWS):
        hashed.update(array[first : first + _BLOCK_ROWS])
    if hashed.hexdigest() != note.xxh3_64:
        return None
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # a full cache removes what was not used for longest
    return note


def _computed(
    key: FeatureKey,
    backbone: FeatureExtractor,
    loader: ShardLoader,
    precision: Precision,
    stopping: Callable[[], None],
) -> _Note:
    """Compute the features and write them, block by block, so that memory does not limit them."""
    path, samples, start = key.path, len(loader.split), time.perf_counter()
    with writing_to_cache(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _note_path(path).unlink(missing_ok=True)
        hashed = xxhash.xxh3_64()
        with replacing(path) as file:
            _write_header(file, samples, backbone.size)
            for block in _blocks(
                key, predict(backbone, loader, key.spec.preset().to(loader.device), precision), loader
            ):
                file.write(block.data)
                hashed.update(block.data)
                stopping()
        note = _Note(
            key=key,
            samples=samples,
            size=backbone.size,
            xxh3_64=hashed.hexdigest(),
            seconds=time.perf_counter() - start,
        )
        write_atomically(_note_path(path), orjson.dumps(asdict(note), option=orjson.OPT_INDENT_2))
    return note


def _blocks(
    key: FeatureKey, batches: Iterator[tuple[Tensor, Tensor, Tensor]], loader: ShardLoader
) -> Iterator[NDArray[np.float32]]:
    """Features on the host, float32 (n, size) for each batch.

    Raises:
        UserError: a feature is NaN or Inf.
    """
    pending: deque[Tensor] = deque()

    def oldest() -> NDArray[np.float32]:
        block = np.ascontiguousarray(pending.popleft().cpu().numpy())
        if not np.isfinite(block).all():
            raise UserError(
                f"{key.model} gives features that are NaN or Inf, in {key.precision}; give --amp off, or check its "
                "weights"
            )
        return block

    for features, _, _ in bar(batches, total=len(loader), desc=f"features of {key.split}", unit=" batches"):
        pending.append(features)
        if len(pending) == _PENDING:
            yield oldest()
    while pending:
        yield oldest()


def _write_header(file: BinaryIO, samples: int, size: int) -> None:
    header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": (samples, size)}
    np.lib.format.write_array_header_1_0(file, header)


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")
