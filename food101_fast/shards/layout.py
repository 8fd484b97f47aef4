"""Names and record types of the shard format, which the writer and the readers share.

The format itself is specified in `shards/README.md` of the repository.
"""

from __future__ import annotations

import functools
import io
import re
import unicodedata
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
MANIFEST_NAME = "manifest.json"
REJECTS_NAME = "rejects.jsonl"
NOTES_NAME = "notes.jsonl"
OVERVIEW_NAMES = ("overview/class_counts.png", "overview/samples.png", "overview/rejects.png")

# How a sample's image is stored, and the suffix of its member in the tar.
ENCODINGS = {"raw": "npy", "jpeg": "jpg"}
# In tars of other programs: files of any image format and size, decoded and resized when they are read.
FOREIGN: Literal["any"] = "any"
SOURCE_PREFIX = "index:"
"""The `source` in a manifest of `shards index` starts with it."""

# One row per sample: offset and length of its payload in the tar, its label, and the XXH3-64 of the payload.
INDEX_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u8"), ("label", "<i8"), ("xxh3_64", "<u8")])

# A USTAR name has at most 100 bytes. For longer ones tar adds headers, and rows would not have one stride.
_CLASS_CHARACTERS = 40
_SAMPLE_CHARACTERS = 44
_KEY_CHARACTERS = 96  # and a suffix such as .npy

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "eval", "evaluation"), "test"),
}


def split_of_name(name: str) -> str | None:
    """The split that a file or folder is named after, such as val for `ILSVRC2012_img_val`; None if none or several."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    splits = {_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def shard_name(split: str, index: int) -> str:
    """File name of shard `index` of `split`: `train-000007.tar`."""
    return f"{split}-{index:06d}.tar"


def index_name(shard: str) -> str:
    """File name of the index that belongs to `shard`: `train-000007.index.npy`."""
    return shard.removesuffix(".tar") + ".index.npy"


def val_index_name(tar: str) -> str:
    """File name of a second index of `tar`, of the samples that `shards index` cuts from train for val."""
    return tar.removesuffix(".tar") + ".val.index.npy"


def index_bytes(samples: int) -> int:
    """Size in bytes of the index file of a shard with `samples` samples."""
    stream = io.BytesIO()
    description = np.lib.format.dtype_to_descr(INDEX_DTYPE)
    np.lib.format.write_array_header_1_0(stream, {"descr": description, "fortran_order": False, "shape": (samples,)})
    return stream.tell() + samples * INDEX_DTYPE.itemsize


@functools.cache
def npy_header(image_size: int) -> bytes:
    """The bytes that precede the pixels in the `.npy` of a `(image_size, image_size, 3)` uint8 image."""
    stream = io.BytesIO()
    shape = (image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _slug(text: str, limit: int) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_text).strip("_")[:limit] or "unnamed"


def sample_keys(classes: tuple[str, ...], labels: NDArray[np.int64], names: list[str]) -> list[str]:
    """WebDataset keys `{class}/{id}`, unique, ASCII, without dots and short enough for a plain USTAR header.

    Args:
        classes: class names; `labels` index into them.
        labels: (N,) label of each sample.
        names: N names of the samples in their source, not necessarily unique.

    Returns:
        N keys. Where two would be equal, the later one ends in its position in the source. Keys that differ in case
        only count as equal, since tars are also unpacked on disks that do not tell them apart.
    """
    taken: set[str] = set()
    return [unique_key(key, position, taken) for position, key in enumerate(base_keys(classes, labels, names))]


def base_keys(classes: tuple[str, ...], labels: NDArray[np.int64], names: list[str]) -> list[str]:
    """The keys of `sample_keys` before equal ones are told apart."""
    taken: set[str] = set()
    slugs = (_slug(name, _CLASS_CHARACTERS) for name in classes)
    folders = [unique_key(folder, position, taken) for position, folder in enumerate(slugs)]
    return [
        f"{folders[label]}/{_slug(name, _SAMPLE_CHARACTERS)}"
        for label, name in zip(labels.tolist(), names, strict=True)
    ]


def unique_key(key: str, position: int, taken: set[str]) -> str:
    """The key, or the key with its position at the end if it is `taken`, to which it is added in lower case."""
    base, end = key, ""
    while (key := base[: _KEY_CHARACTERS - len(end)] + end).lower() in taken:
        end += f"-{position}"
    taken.add(key.lower())
    return key
