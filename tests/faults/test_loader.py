"""Whatever happens to the files: the loader gives every sample as it was written, or says what is damaged."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pytest
import xxhash

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.loader import ShardLoader
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.shards.layout import INDEX_DTYPE
from food101_fast.shards.split import Verify
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.conftest import flip, write_folder

SHARD = "train-000002.tar"
INDEX = "train-000002.index.npy"


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def whole(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("whole") / request.param
    encoding: Literal["raw", "jpeg"] = request.param
    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=out, size=32, encoding=encoding, samples_per_shard=9))
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def epoch(folder: Path, verify: Verify = "first-epoch", loader: ShardLoader | None = None) -> dict[int, bytes]:
    """Every sample of an epoch, with its label."""
    if loader is None:
        loader = ShardLoader(folder, split="train", batch_size=8, drop_last=False, verify=verify)
    rows = {}
    for batch in loader:
        for image, label, sample in zip(batch.images, batch.labels.tolist(), batch.ids.tolist(), strict=True):
            assert sample not in rows
            rows[sample] = bytes([label]) + image.numpy().tobytes()
    return rows


def members(folder: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(folder / SHARD) as tar:
        return tar.getmembers()


def cut(folder: Path, at: int) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:at])


def edit_index(folder: Path, change: Callable[[np.ndarray], object]) -> None:
    """Change an index, and let the manifest agree, so that only what it says gives it away."""
    index = np.load(folder / INDEX)
    change(index)
    np.save(folder / INDEX, index)
    edit_manifest(
        folder,
        lambda entry: entry.update(index_xxh3_64=xxhash.xxh3_64_hexdigest((folder / INDEX).read_bytes())),
    )


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    for entry in manifest["splits"]["train"]["shards"]:
        if entry["name"] == SHARD:
            change(entry)
    del manifest["digest"]
    manifest["digest"] = xxhash.xxh3_64_hexdigest(orjson.dumps(manifest))
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))


def swap(folder: Path) -> None:
    """Two shards in each other's place, with their indexes; in a raw set they have the same size."""
    for name in (SHARD, INDEX):
        other = name.replace("000002", "000001")
        (folder / name).rename(folder / "aside")
        (folder / other).rename(folder / name)
        (folder / "aside").rename(folder / other)


def swap_tars(folder: Path) -> None:
    other = SHARD.replace("000002", "000001")
    (folder / SHARD).rename(folder / "aside")
    (folder / other).rename(folder / SHARD)
    (folder / "aside").rename(folder / other)


def other_manifest(folder: Path) -> None:
    source = write_folder(folder.parent / "others", {"ramen": 30, "apple pie": 20, "tacos": 23}, width=60)
    encoding = orjson.loads((folder / "manifest.json").read_bytes())["encoding"]
    settings = PrepareSettings(
        source=f"folder:{source}", out=folder.parent / "o", size=32, encoding=encoding, samples_per_shard=9
    )
    prepare(settings)
    shutil.copy(folder.parent / "o" / "manifest.json", folder / "manifest.json")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut at a member boundary": (lambda f: cut(f, members(f)[10].offset), "bytes and the manifest says"),
    "cut in a header": (lambda f: cut(f, members(f)[10].offset + 100), "bytes and the manifest says"),
    "cut in a payload": (lambda f: cut(f, members(f)[11].offset_data + 100), "bytes and the manifest says"),
    "longer": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes() + b"x"), "bytes and the manifest says"),
    "shorter by a byte": (lambda f: cut(f, (f / SHARD).stat().st_size - 1), "bytes and the manifest says"),
    "empty": (lambda f: (f / SHARD).write_bytes(b""), "has 0 bytes and the manifest says"),
    "missing": (lambda f: (f / SHARD).unlink(), "is missing"),
    "index missing": (lambda f: (f / INDEX).unlink(), "is missing"),
    "index cut": (lambda f: (f / INDEX).write_bytes((f / INDEX).read_bytes()[:-32]), "bytes and the manifest says"),
    "index flipped": (lambda f: flip(f / INDEX, 150), "is not the index that the manifest describes"),
    "swapped with another": (swap, "manifest"),
    "tars swapped": (swap_tars, "changed after|manifest says|past its end"),
    "offset outside": (lambda f: edit_index(f, lambda i: i["offset"].__setitem__(-1, 2**40)), "points past its end"),
    "offset far outside": (lambda f: edit_index(f, lambda i: i["offset"].__setitem__(-1, 2**64 - 512)), "past its end"),
    "length outside": (lambda f: edit_index(f, lambda i: i["length"].__setitem__(-1, 2**40)), "points past its end"),
    "offset off the blocks": (lambda f: edit_index(f, lambda i: i["offset"].__iadd__(8)), "not a multiple of 512"),
    "overlapping": (lambda f: edit_index(f, lambda i: i["offset"].__setitem__(3, i["offset"][2])), "overlap"),
    "label outside": (lambda f: edit_index(f, lambda i: i["label"].__setitem__(3, 9)), "labels outside the 3 classes"),
    "other offsets": (lambda f: edit_index(f, lambda i: i["xxh3_64"].__iadd__(1)), "changed after they were written"),
    "manifest cut": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:-200]),
        r"manifest\.json is damaged",
    ),
    "manifest of another data set": (other_manifest, "manifest"),
    "sample count": (lambda f: edit_manifest(f, lambda entry: entry.update(samples=7)), "do not add up"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_has_a_name(copy: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        epoch(copy)
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("where", [0, 100, -1])
@pytest.mark.parametrize("verify", ["first-epoch", "always"])
def test_a_flipped_bit_of_a_payload_names_its_sample(copy: Path, where: int, verify: Verify) -> None:
    member = members(copy)[11]
    flip(copy / SHARD, member.offset_data + (where if where >= 0 else member.size - 1))
    key = member.name.rpartition(".")[0]
    message = rf"copy/{SHARD}: sample 5 \({key}\) at byte {member.offset_data:,}, {member.size:,} bytes long"
    with pytest.raises(DamagedDataError, match=message):
        epoch(copy, verify)


def test_a_flipped_bit_of_a_header_harms_no_sample(copy: Path, whole: Path) -> None:
    """The loader reads no header; `verify` says which."""
    flip(copy / SHARD, members(copy)[11].offset + 130)
    assert epoch(copy) == epoch(whole)
    assert any("header is damaged" in problem for problem in verify(LocalFolder(copy)))


def test_every_byte_that_a_sample_is_made_of_is_checked(copy: Path, whole: Path) -> None:
    """Random bits anywhere in a shard: an error, or the very samples."""
    expected = epoch(whole)
    rng = np.random.default_rng(0)
    content = (copy / SHARD).read_bytes()
    errors = 0
    for byte in rng.integers(0, len(content), 60).tolist():
        (copy / SHARD).write_bytes(content)
        flip(copy / SHARD, byte)
        try:
            assert epoch(copy) == expected
        except DamagedDataError:
            errors += 1
    assert errors > 10
    (copy / SHARD).write_bytes(content)
    assert epoch(copy) == expected


def test_later_damage_is_found_with_verify_always(copy: Path, whole: Path) -> None:
    record = np.load(copy / INDEX)[4]
    settings: tuple[tuple[Verify, bool], ...] = (("first-epoch", False), ("always", True))
    for setting, found in settings:
        loader = ShardLoader(copy, split="train", batch_size=8, drop_last=False, verify=setting)
        assert epoch(copy, loader=loader) == epoch(whole)
        with (copy / SHARD).open("r+b") as file:  # in place, under the map
            file.seek(int(record["offset"]) + int(record["length"]) - 1)
            before = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([before[0] ^ 1]))
        if found or whole.name == "jpeg":  # of which the decoder, too, says that it is damaged
            with pytest.raises(DamagedDataError, match=r"sample 4 .*changed" if found else "sample 4"):
                epoch(copy, loader=loader)
        else:
            assert set(epoch(copy, loader=loader)) == set(epoch(whole))
        shutil.copy(whole / SHARD, copy / SHARD)


def test_nothing_is_checked_if_never_is_asked_for(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = epoch(whole)
    monkeypatch.setattr("food101_fast.shards.split.xxhash.xxh3_64_intdigest", None)
    assert epoch(whole, "never") == expected
    with pytest.raises(TypeError):
        epoch(whole, "first-epoch")


def test_each_sample_is_checked_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = xxhash.xxh3_64_intdigest
    checked: list[int] = []

    def counted(data: memoryview) -> int:
        checked.append(len(data))
        return digest(data)

    monkeypatch.setattr("food101_fast.shards.split.xxhash.xxh3_64_intdigest", counted)
    loader = ShardLoader(whole, split="train", batch_size=8, drop_last=False)
    for _ in range(3):
        epoch(whole, loader=loader)
    assert len(checked) == len(loader.split)
    assert INDEX_DTYPE.itemsize == 32
    monkeypatch.setattr("food101_fast.shards.split._MOST_OPEN", 0)
    for threads in (1, 3):
        windowed = ShardLoader(whole, split="train", batch_size=8, drop_last=False, window=9, threads=threads)
        assert windowed.split.unchecked == len(loader.split)
        checked.clear()
        for _ in range(3):
            epoch(whole, loader=windowed)  # shards are closed and opened again, some before all of them was read
            assert windowed.split.unchecked == 0
        assert len(checked) == len(loader.split)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_a_flipped_bit_of_any_row_is_found_by_any_number_of_threads(
    copy: Path, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("food101_fast.loader.batches._usable_cores", lambda: 4)
    monkeypatch.setattr("food101_fast.shards.split._CHECKED_AT_A_TIME", 3)  # of a batch of 8
    content = (copy / SHARD).read_bytes()
    for number, record in enumerate(np.load(copy / INDEX)):
        (copy / SHARD).write_bytes(content)
        flip(copy / SHARD, int(record["offset"]) + 97 * number % int(record["length"]))
        loader = ShardLoader(copy, split="train", batch_size=8, drop_last=False, threads=threads)
        with pytest.raises(DamagedDataError, match=f"sample {number} .* at byte {record['offset']:,}.*changed after"):
            epoch(copy, loader=loader)
        assert loader.split.unchecked > 0


def test_every_row_of_a_batch_is_compared_with_its_own_checksum(copy: Path) -> None:
    """Two rows in each other's place: every checksum is there, each at the wrong one."""
    record = np.load(copy / INDEX)
    (first, one), (second, other) = ((int(record["offset"][i]), int(record["length"][i])) for i in (2, 3))
    if one != other:
        pytest.skip("encoded rows differ in size")
    content = bytearray((copy / SHARD).read_bytes())
    content[first : first + one], content[second : second + one] = (
        content[second : second + one],
        content[first : first + one],
    )
    (copy / SHARD).write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"sample [23] .*changed after"):
        epoch(copy)


def test_a_jpeg_of_another_size_is_no_sample(whole: Path, copy: Path) -> None:
    """A shard that fits its manifest, made by somebody who put other pictures in."""
    shards = ShardSet.open(copy)
    if shards.manifest.encoding != "jpeg":
        pytest.skip("raw rows have no size of their own")
    edit_all = orjson.loads((copy / "manifest.json").read_bytes())
    edit_all["image_size"] = 24
    del edit_all["digest"]
    edit_all["digest"] = xxhash.xxh3_64_hexdigest(orjson.dumps(edit_all))
    (copy / "manifest.json").write_bytes(orjson.dumps(edit_all))
    with pytest.raises(DamagedDataError, match=r"it has the shape \(32, 32, 3\)|does not decode"):
        epoch(copy)
