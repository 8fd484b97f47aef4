"""Shards as a dataset of the webdataset library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from food101_fast.errors import UserError
from food101_fast.shards.layout import ENCODINGS, SOURCE_PREFIX

if TYPE_CHECKING:
    from food101_fast.shards.reader import ShardSet

Decode = Literal["pil", "rgb8"]

_SHUFFLED_SAMPLES = 1000
_SHUFFLED_SHARDS = 100


def as_webdataset(shards: ShardSet, split: str, *, shuffle: bool, decode: Decode | None, seed: int) -> Any:
    """See `ShardSet.webdataset`."""
    import webdataset  # here, since nothing else needs it

    if shards.manifest.source.startswith(SOURCE_PREFIX):
        raise UserError(
            f"{shards.folder.url} was made by `shards index`, and its tars may name their images in any way; give "
            "the tars to webdataset.WebDataset directly"
        )
    if shards.overlays:
        raise UserError(
            f"webdataset reads the tars of {shards.folder.url} as they are, without overlays; use ShardLoader, or open "
            "the shards without them"
        )
    urls = [f"{shards.location}/{entry.name}" for entry in shards.split(split).entries]
    dataset = webdataset.WebDataset(
        urls,
        shardshuffle=_SHUFFLED_SHARDS if shuffle else False,
        nodesplitter=webdataset.split_by_node,
        empty_check=False,  # there may be more workers than shards
        seed=seed,
    )
    if shuffle:
        dataset = dataset.shuffle(_SHUFFLED_SAMPLES, seed=seed)
    if decode is None:
        return dataset
    pairs = dataset.decode(decode).to_tuple(ENCODINGS[shards.manifest.encoding], "cls")
    return pairs.map_tuple(_as_picture if decode == "pil" else np.asarray, int)


def _as_picture(image: Any) -> Any:
    """The image as a PIL image; webdataset decodes raw shards to arrays."""
    from PIL import Image

    return image if isinstance(image, Image.Image) else Image.fromarray(image)
