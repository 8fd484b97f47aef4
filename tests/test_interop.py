"""Our tars are read by others as they are: webdataset, Hugging Face datasets and timm, the same pixels and labels."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import simplejpeg
import webdataset
from PIL import Image
from timm.data.dataset_factory import create_dataset
from torch.utils.data import DataLoader

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet

# They leave files to the collector, and guess image types.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def jpeg(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "jpeg"
    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, encoding="jpeg", samples_per_shard=9))
    return out


def ours(folder: Path) -> list[tuple[int, bytes]]:
    split = ShardSet.open(folder).split("train")
    return [(int(label), split[sample].tobytes()) for sample, label in enumerate(split.labels)]


def tars(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("train-*.tar")))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_webdataset(jpeg: Path, tiny_path: Path, encoding: str) -> None:
    folder = jpeg if encoding == "jpeg" else tiny_path
    dataset = webdataset.WebDataset(tars(folder), shardshuffle=False)
    decoded = dataset.decode("rgb8").to_tuple("cls", "jpg" if encoding == "jpeg" else "npy")
    theirs = [(label, np.asarray(image)) for label, image in decoded]
    assert [label for label, _ in theirs] == [label for label, _ in ours(folder)]
    for (_, image), (_, pixels) in zip(theirs, ours(folder), strict=True):
        assert close(image, pixels, exact=encoding == "raw")


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_shards_as_a_webdataset(jpeg: Path, tiny_path: Path, encoding: str) -> None:
    folder = jpeg if encoding == "jpeg" else tiny_path
    shards = ShardSet.open(folder)
    for (image, label), (array, same), (expected, pixels) in zip(
        shards.webdataset("train"), shards.webdataset("train", decode="rgb8"), ours(folder), strict=True
    ):
        assert isinstance(image, Image.Image)
        assert type(label) is int
        assert label == same == expected
        assert np.array_equal(np.asarray(image), array)
        assert close(array, pixels, exact=encoding == "raw")
    assert {"cls", "__key__"} < set(next(iter(shards.webdataset("val", decode=None))))
    with pytest.raises(UserError, match="has no split 'trian'"):
        shards.webdataset("trian")


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (3, 0), (2, 2)])
def test_ranks_and_workers_of_a_webdataset_share_the_samples(
    ranks: int, workers: int, jpeg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, seen = ShardSet.open(jpeg), []
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        dataset = shards.webdataset("train", shuffle=True, decode=None, seed=3)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        seen += [sample["__key__"] for sample in loader]
    keys = [sample["__key__"] for sample in shards.webdataset("train", decode=None)] if ranks == 1 else None
    assert len(set(seen)) == len(seen) == len(shards.split("train"))
    if keys is not None:
        assert sorted(seen) == sorted(keys)
        assert seen != keys  # shuffled


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_hugging_face_datasets(jpeg: Path, tiny_path: Path, tmp_path: Path, encoding: str) -> None:
    folder = jpeg if encoding == "jpeg" else tiny_path
    loaded = datasets.load_dataset("webdataset", data_files=tars(folder), split="train", cache_dir=str(tmp_path))
    assert len(loaded) == len(ours(folder))
    for row, (label, pixels) in zip(loaded, ours(folder), strict=True):
        assert int(row["cls"]) == label
        image = np.asarray(row["jpg"] if encoding == "jpeg" else row["npy"], np.uint8)
        assert close(image, pixels, exact=encoding == "raw")


def test_timm(jpeg: Path) -> None:
    expected = ours(jpeg)
    first, last = tars(jpeg)[0], tars(jpeg)[-1]
    split = f"train-{{{first[-10:-4]}..{last[-10:-4]}}}.tar|{len(expected)}"
    dataset = create_dataset("wds/", root=str(jpeg), split=split, is_training=False, batch_size=1)
    theirs = [(int(label), np.asarray(image)) for image, label in dataset]
    assert [label for label, _ in theirs] == [label for label, _ in expected]
    for (_, image), (_, pixels) in zip(theirs, expected, strict=True):
        assert close(image, pixels, exact=False)


def close(image: np.ndarray, pixels: bytes, *, exact: bool) -> bool:
    """Pillow brings a build of libjpeg-turbo of its own, which may round differently."""
    mine = np.frombuffer(pixels, np.uint8).reshape(image.shape)
    return bool(np.array_equal(image, mine) if exact else np.abs(image.astype(int) - mine).max() <= 1)


def test_our_jpegs_are_plain_ones(jpeg: Path) -> None:
    """Baseline, 4:2:0, three components: what every decoder, nvJPEG too, is fastest at."""
    files, _ = ShardSet.open(jpeg).split("train").payloads(np.arange(3))
    for file in files:
        assert simplejpeg.decode_jpeg_header(file.numpy().tobytes()) == (32, 32, "YCbCr", "420")
