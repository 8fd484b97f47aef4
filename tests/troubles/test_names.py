"""Class and file names of any kind: the keys in the tars stay apart, and the true names stay with the data.

Public report: mf1024/ImageNet-Datasets-Downloader#16 (classes of one name are merged). On disks that do not tell
`Ramen` from `ramen`, tar overwrites one of them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from food101_fast.evaluate import evaluate
from food101_fast.shards import ShardSet
from food101_fast.shards.layout import sample_keys
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from food101_fast.train import Recipe, train
from tests.conftest import encoded, picture

# webdataset leaves its files to the garbage collector. Pictures of such names have tests of their own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Glyph .* missing from font:UserWarning"),
    pytest.mark.filterwarnings("ignore:constrained_layout not applied:UserWarning"),
]

NAMES = (
    "$\\alpha_{1}$ & <b>50 %",
    "Ramen",
    "ramen",
    "ra men",
    "ra_men",
    "-dash",
    "拉麺",
    "うどん 🍜",
    "e\u0301clair",  # e and an accent, which is another name than é
    "éclair",
    "x" * 200,
    "x" * 199 + "y",
    'quote " comma, tab\t line\nend',
    "C:\\x\\xe9",
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of `NAMES`, with ten pictures and a hidden file whose names are as odd."""
    root = tmp_path_factory.mktemp("odd")
    for label, name in enumerate(NAMES):
        (root / name).mkdir()
        for position in range(11):
            names = ("A.1", "a.1", "a 1", "..a", "-a", "拉", "麺", "%s", "x" * 200, "", "z")
            path = root / name / f"{names[position]}{position if position < 3 else ''}#.jpg"
            path.write_bytes(encoded(picture(100 * label + position, 40, 40)))
    return root


@pytest.fixture(scope="module")
def shards(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    from food101_fast.prepare import PrepareSettings, prepare

    out = tmp_path_factory.mktemp("shards") / "out"
    prepare(PrepareSettings(source=f"folder:{odd}", out=out, size=32, workers=1))
    return ShardSet.open(out)


def spelled(name: str) -> str:
    """A name that looks like the spelling of a byte gets its backslash spelled."""
    return name.replace("\\xe9", "\\x5cxe9")


def test_the_manifest_has_the_true_names(shards: ShardSet) -> None:
    # Files whose names begin with a dot are hidden.
    assert set(shards.classes) == {spelled(name) for name in NAMES}
    assert shards.manifest.read == sum(split.samples for split in shards.manifest.splits.values())
    counts = np.sum([split.class_counts for split in shards.manifest.splits.values()], axis=0)
    assert counts.tolist() == [10] * len(NAMES)


def test_keys_stay_apart_on_every_disk(shards: ShardSet) -> None:
    assert not list(verify(LocalFolder(Path(shards.location))))
    keys: dict[str, str] = {}
    for tar in Path(shards.location).glob("*.tar"):
        with tarfile.open(tar) as archive:
            for member in archive:
                assert member.name.lower() not in keys
                content = archive.extractfile(member)
                assert content is not None
                keys[member.name.lower()] = content.read(8).decode("latin-1")
    folders = {(name.partition("/")[0], label) for name, label in keys.items() if name.endswith(".cls")}
    assert len(folders) == len(NAMES)  # one folder for each label
    assert len({folder for folder, _ in folders}) == len(NAMES)


def test_other_readers_get_every_sample(shards: ShardSet) -> None:
    for split, entry in shards.manifest.splits.items():
        read = [label for _, label in shards.webdataset(split, decode="rgb8")]
        assert np.bincount(read, minlength=len(NAMES)).tolist() == list(entry.class_counts)


@pytest.mark.slow
def test_a_run_from_training_to_report(
    shards: ShardSet, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run [v2] #1 %"
    recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=16)
    train(shards, run, recipe, device="cpu")
    evaluate(run, device="cpu")
    code, out, err = command("report", "--run", str(run))
    assert code == 0, err
    page = (run / "report.html").read_text("utf-8")
    assert "<b>50 %" not in page
    assert "拉麺" in page
    assert set(json.loads((run / "recipe.json").read_bytes())["classes"]) == set(shards.classes)
    image = tmp_path / "-拉 麺$.jpg"
    image.write_bytes(encoded(picture(1, 40, 40)))
    code, out, err = command("predict", "--run", str(run), "--device", "cpu", "--json", str(image))
    assert code == 0, err
    assert {each["class"] for each in json.loads(out)["predictions"]} <= set(shards.classes)
    code, out, err = command("shards", "show", shards.location)
    assert code == 0, err
    code, out, err = command("export", "--run", str(run), "--out", str(tmp_path / "exported"))
    assert code == 0, err


def test_many_equal_names_stay_within_a_header() -> None:
    """Positions of seven digits, classes of one spelling: with suffixes a key would have had more than 100 bytes."""
    classes = tuple(f"{'拉' * position}{'x' * 40}" for position in range(1100))
    labels = np.full(40, 1099)
    names = ["y" * 60] * 40
    keys = sample_keys(classes, labels, names)
    assert len(set(keys)) == 40
    many = 1_000_002
    keys = sample_keys(
        ("x" * 40, "X" * 40), np.ones(many, np.int64), [str(n) for n in range(many - 2)] + ["y" * 60] * 2
    )
    assert max(map(len, keys)) <= 96
    assert len(set(keys)) == many
    generated = sample_keys(("a-2", "a", "A"), np.arange(3), ["1", "1", "1"])  # the name that the third would get
    assert len({key.lower() for key in generated}) == 3
