"""Whatever a tar of another program has: read = written + dropped, and every lost image is named.

Members are shuffled, doubled, linked, given dots, hidden and truncated. What should come out is computed here from the
list of members alone, with a second, slower reading of the rules.

Reports: webdataset#157, webdataset#286, ray#48643, ray#65044, webdataset#11.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.shards.foreign import IndexOptions, write_index
from food101_fast.shards.foreign.options import KeyEnd
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.troubles.tars import RULES, Link, Members, image, tar_bytes

NAMES = (
    *"abcdefgh",
    "d/a",
    "./d.v2/b",
    "IMG_1",
    "IMG_1.edited",
    "IMG_1.v.2",
    "scan.00001",
    "scan.00002",
    ".hidden",
    "ü",
)
KINDS = ("png", "jpg", "PNG", "bmp", "seg.png")
IMAGES = {number: {kind: image(number, kind.lower().removeprefix("seg.")) for kind in KINDS} for number in range(12)}
DAMAGED = IMAGES[0]["png"][:60]


@dataclass(frozen=True, kw_only=True)
class Tar:
    """A tar to be indexed."""

    members: Members
    key_ends_at: KeyEnd
    kept: float
    """Share of its bytes that are there."""


@st.composite
def tars(draw: st.DrawFn) -> Tar:
    """A tar whose image `number` has the label `number % 3`, unless a name repeats with another image."""
    members: Members = []
    for number in range(draw(st.integers(1, 7))):
        name, kind = draw(st.sampled_from(NAMES)), draw(st.sampled_from(KINDS))
        picture: bytes | Link = IMAGES[number][kind]
        if draw(st.integers(0, 9)) == 0:
            picture = DAMAGED
        members.append((f"{name}.{kind}", picture))
        label = b"%d" % (number % 3)
        suffix = draw(st.sampled_from(("cls", "cls", "json", "txt", "")))
        if suffix:
            members.append((f"{name}.{suffix}", b'{"label": %s}' % label if suffix == "json" else label))
    for _ in range(draw(st.integers(0, 3))):
        members.append(draw(st.sampled_from(members)))
    for number in range(draw(st.integers(0, 2))):
        target = draw(st.sampled_from([name for name, _ in members] + ["gone.png", "/abs/x.png"]))
        name, kind = draw(st.sampled_from(NAMES)), draw(st.sampled_from(KINDS))
        hard = draw(st.booleans())
        relative = (
            target if hard or target.startswith("/") else posixpath.relpath(target, posixpath.dirname(name) or ".")
        )
        members.append((f"{name}.{kind}", Link(relative, hard)))
        members += draw(st.sampled_from(([], [(f"{name}.cls", b"%d" % number)])))
    return Tar(
        members=draw(st.permutations(members)),
        key_ends_at=draw(st.sampled_from(("first-dot", "last-dot"))),
        kept=draw(st.sampled_from((1.0,) * 9 + (0.99, 0.7, 0.3))),
    )


def is_image(name: str) -> bool:
    """Whether a member counts: an image by the end of its name, and not hidden."""
    return not posixpath.basename(name).startswith(".") and name.lower().endswith((".png", ".jpg", ".bmp"))


def contents_of(members: Members) -> dict[str, set[bytes]]:
    """What an image of each name may have as its content, links followed."""
    first: dict[str, bytes | Link] = {}
    for name, content in members:
        first.setdefault(posixpath.normpath(name), content)
    contents: dict[str, set[bytes]] = {}
    for name, content in members:
        path, hops = name, 0
        while isinstance(content, Link) and hops < len(members):
            path = posixpath.normpath(posixpath.join("" if content.hard else posixpath.dirname(path), content.target))
            content, hops = first.get(path, b""), hops + 1
        contents.setdefault(name, set()).update([content] if isinstance(content, bytes) else [])
    return contents


def check(tar: Tar) -> None:
    """Index a tar, and compare what was written and listed with its members."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        content = tar_bytes(tar.members)
        end = len(content.rstrip(b"\0"))
        kept = int(tar.kept * len(content))
        (folder / "train.tar").write_bytes(content[:kept])
        options = IndexOptions(key_ends_at=tar.key_ends_at, max_collisions=1)
        try:
            _, manifest = write_index([f"{folder}/train.tar"], RULES, options)
        except UserError as error:
            manifest, refusal = None, str(error)
        if manifest is None:
            event("refused, nothing to train on" if "no sample" in refusal else "refused, truncated")
            assert "\n" not in refusal
            assert [path.name for path in folder.iterdir()] == ["train.tar"]
            assert "no sample" in refusal or kept < len(content)
            return
        assert kept >= end + 512 - end % 512, "a truncated tar was accepted"
        rejects = [orjson.loads(line) for line in (folder / "rejects.jsonl").read_bytes().splitlines()]
        rows = np.load(folder / "train.index.npy")
        for reason in {line["reason"] for line in rejects} or {"nothing"}:
            event(f"dropped: {reason}")
        assert manifest.read == len(rows) + len(rejects) == manifest.splits["train"].samples + len(rejects)
        assert manifest.rejects == dict(Counter(line["reason"] for line in rejects))
        named = Counter(line["file"].removeprefix("train.tar/") for line in rejects if line["reason"] != "no-image")
        images = Counter(name for name, _ in tar.members if is_image(name))
        used = images - named
        assert images == used + named  # nothing is named that is not there, or more often
        assert max(used.values()) == 1
        assert sum(used.values()) == len(rows)
        assert not list(verify(LocalFolder(folder)))
        check_rows(tar, used, rows)


def check_rows(tar: Tar, used: Counter[str], rows: NDArray[np.void]) -> None:
    """Each written sample is one of the images that are not named, with the label of its key."""
    hashes = {name: set(map(xxhash.xxh3_64_intdigest, contents_of(tar.members)[name])) for name in used}
    labels: dict[int, set[int]] = {}
    for digest, label in zip(rows["xxh3_64"].tolist(), rows["label"].tolist(), strict=True):
        labels.setdefault(digest, set()).add(label)
    assert set(labels) <= set().union(*hashes.values())
    for name, digests in hashes.items():
        if len(digests) == 1:
            assert label_of(tar, name) in labels[digests.pop()]


def label_of(tar: Tar, image_name: str) -> int:
    """The label that a written image should have, from the members with its key."""
    key = key_of(image_name, tar.key_ends_at)
    found: dict[str, set[int]] = {}
    for name, content in tar.members:
        if isinstance(content, bytes) and name.startswith(key + ".") and key_of(name, tar.key_ends_at) == key:
            suffix = name.removeprefix(key + ".")
            if suffix in ("cls", "json", "txt"):
                found.setdefault(suffix, set()).add(int(content.strip(b'{}"label: ')))
    (label,) = next(found[suffix] for suffix in ("cls", "json", "txt") if suffix in found)
    return label


def key_of(name: str, key_ends_at: KeyEnd) -> str:
    """The name up to the first or last dot of its base name."""
    folder, base = posixpath.split(name)
    stem = base.split(".")[0] if key_ends_at == "first-dot" else posixpath.splitext(base)[0]
    return posixpath.join(folder, stem)


@given(tars())
@settings(max_examples=100)
def test_read_is_written_plus_dropped(tar: Tar) -> None:
    check(tar)


@pytest.mark.slow
@given(tars())
@settings(max_examples=2000)
def test_read_is_written_plus_dropped_many_times(tar: Tar) -> None:
    check(tar)
