"""Data sets of the hub as they are: own splits, rows without label or image, other labels, several columns or forms.

Reports: huggingface/datasets#5624 (test splits with label -1), huggingface/datasets#4621 (labels or metadata), and the
"Config name is missing" of `load_dataset`, whose list of choices stands in its second line.
"""

from __future__ import annotations

import pickle
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.sources import SourceOptions, open_source
from food101_fast.prepare.sources.hub import HubSource
from tests.conftest import encoded, picture

IMAGE = datasets.Image()
LABEL = datasets.ClassLabel(names=["tacos", "apple_pie"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def photo(seed: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": encoded(picture(seed, 20, 20)), "path": path}


def write(folder: Path, features: dict[str, Any] | None = None, **splits: dict[str, Any]) -> Path:
    """A local data set: a Parquet file for each split; `features` None writes plain Arrow types."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, columns in splits.items():
        path = folder / f"{name}-00000-of-00001.parquet"
        if features is None:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return folder


def opened(folder: Path | str, **options: Any) -> HubSource:
    source = open_source(f"hub:{folder}", SourceOptions(**options))
    assert isinstance(source, HubSource)
    return source


def one_sentence(folder: Path | str, match: str, **options: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        opened(folder, **options)
    assert "\n" not in str(error.value)


def test_its_own_splits_are_known(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": LABEL}
    train = {"image": [photo(i) for i in range(3)], "label": [0, -1, 1]}
    source = opened(write(tmp_path / "d", features, train=train, test={"image": [photo(7), photo(8)], "label": [1, 0]}))
    assert source.splits is not None
    assert source.splits.names == ("train", "test")
    assert source.splits.numbers.tolist() == [0, 0, 1, 1]
    assert source.read(2) == photo(7)["bytes"]


def test_rows_without_label_or_image_are_listed(tmp_path: Path) -> None:
    columns = {
        "image": [photo(0, "a.jpg"), photo(1, "b.jpg"), photo(2), None, None],
        "label": [1, -1, None, 0, -1],
    }
    source = opened(write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train=columns, validation=columns))
    assert source.classes == ("tacos", "apple_pie")
    assert source.labels.tolist() == [1, 1]
    assert [(reject.reason, reject.file, reject.detail) for reject in source.rejects[:4]] == [
        ("no-label", "b.jpg", "row 1 of split train has no label in label"),
        ("no-label", "row 2 of split train", "row 2 of split train has no label in label"),
        ("no-image", "row 3 of split train", "row 3 of split train has no image in image"),
        ("no-image", "row 4 of split train", "row 4 of split train has no image in image"),
    ]
    assert source.rejects[4].detail == "row 1 of split validation has no label in label"
    assert len({reject.key for reject in source.rejects}) == 8


def test_a_label_beyond_the_names_is_no_label(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train={"image": [photo(0)], "label": [1]})
    path = next(folder.glob("*.parquet"))
    table = pyarrow.parquet.read_table(path)
    twice = pyarrow.concat_tables([table, table.set_column(1, table.field(1), [pyarrow.array([7])])])
    pyarrow.parquet.write_table(twice, path)
    source = opened(folder)
    assert source.labels.tolist() == [1]
    assert [reject.reason for reject in source.rejects] == ["no-label"]


def test_the_fingerprint_of_usual_data_sets_is_unchanged(tmp_path: Path) -> None:
    columns = {"image": [photo(0, "a.jpg"), photo(1), photo(2, "x/c.jpg")], "label": [0, 1, -1]}
    source = opened(write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train=columns))
    digest = xxhash.xxh3_64(b"tacos\0apple_pie")
    digest.update(np.array([0, 1], np.int64).tobytes())
    digest.update(b"a\x0000000001")
    assert source.fingerprint == digest.hexdigest()


@pytest.mark.parametrize(
    ("kind", "values", "classes", "labels"),
    [
        ("string", ["b", "a", None, ""], ("a", "b"), [1, 0]),
        ("large_string", ["b", "a", None, " "], ("a", "b"), [1, 0]),
        ("int64", [10, 9, None, -1], ("9", "10"), [1, 0]),
        ("uint8", [10, 9, None, None], ("9", "10"), [1, 0]),
        ("bool", [True, False, None, None], ("false", "true"), [1, 0]),
        ("float32", [2.0, 1.5, None, float("nan")], ("1.5", "2"), [1, 0]),
    ],
)
def test_labels_of_other_types(
    tmp_path: Path, kind: str, values: list[Any], classes: tuple[str, ...], labels: list[int]
) -> None:
    features = {"image": IMAGE, "target": datasets.Value(kind), "id": datasets.Value("int64")}
    columns = {"image": [photo(i) for i in range(4)], "target": values, "id": [4, 5, 6, 7]}
    source = opened(write(tmp_path / "d", features, train=columns))
    assert source.classes == classes
    assert source.labels.tolist() == labels
    assert source.labels.dtype == np.int64
    assert [reject.reason for reject in source.rejects] == ["no-label", "no-label"]
    assert source.column("id") == [4, 5]
    assert source.column("image") is source.column("nothing") is None


FINE_AND_COARSE = {
    "img": IMAGE,
    "fine_label": datasets.ClassLabel(names=["a", "b", "c"]),
    "coarse_label": datasets.ClassLabel(names=["x", "y"]),
    "mask": IMAGE,
    "note": datasets.List(datasets.Value("string")),
}
ROWS = {"img": [photo(0)], "fine_label": [2], "coarse_label": [1], "mask": [photo(1)], "note": [["n"]]}


def test_several_columns_ask_which_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", FINE_AND_COARSE, train=ROWS)
    one_sentence(folder, "several columns that may be the image: img, mask; choose with --image-column")
    one_sentence(folder, "may be the label: fine_label, coarse_label; choose with --label-column", image_column="img")
    source = opened(folder, image_column="mask", label_column="coarse_label")
    assert source.classes == ("x", "y")
    assert source.read(0) == photo(1)["bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "nope"}, "has no column nope; correct --image-column: it has img, fine_label, coarse_label"),
        ({"image_column": "fine_label"}, r"column fine_label .* can't be the image \(it is ClassLabel"),
        ({"image_column": "img", "label_column": "nope"}, "has no column nope; correct --label-column: it has img"),
        ({"image_column": "img", "label_column": "note"}, r"column note .* can't be the label \(it is List"),
        ({"image_column": "img", "label_column": "mask"}, r"column mask .* can't be the label \(it is Image"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    one_sentence(write(tmp_path / "d", FINE_AND_COARSE, train=ROWS), message, **options)


def test_captions_are_not_labels(tmp_path: Path) -> None:
    features = {"image": IMAGE, "text": datasets.Value("string")}
    folder = write(tmp_path / "d", features, train={"image": [photo(0)], "text": ["a dog on a hill"]})
    one_sentence(folder, r"no column of hub:.* known to be the label; choose with --label-column .* has image, text")
    assert opened(folder, label_column="text").classes == ("a dog on a hill",)


@pytest.mark.parametrize("form", ["bytes", "record"])
def test_images_that_are_not_marked_as_such(tmp_path: Path, form: str) -> None:
    images = [photo(0)["bytes"], photo(1)["bytes"], None] if form == "bytes" else [photo(0), photo(1), None]
    source = opened(write(tmp_path / "d", train={"picture": images, "class": ["a", "b", "b"]}))
    assert source.read(1) == photo(1)["bytes"]
    assert [reject.reason for reject in source.rejects] == ["no-image"]
    assert pickle.loads(pickle.dumps(source)).read(0) == photo(0)["bytes"]


def test_configurations_are_listed_whole(tmp_path: Path) -> None:
    names = [f"configuration-{i}" for i in range(30)]
    lines = ["---", "configs:"]
    for i, name in enumerate(names):
        columns = {"image": [photo(0)], "label": [i % 2]}
        write(tmp_path / "d" / name, {"image": IMAGE, "label": LABEL}, train=columns)
        lines += [f"- config_name: {name}", f"  data_files: {name}/*.parquet"]
    (tmp_path / "d" / "README.md").write_text("\n".join([*lines, "---", ""]))
    one_sentence(tmp_path / "d", f"has the configurations {', '.join(names)}; choose one of them with --config")
    one_sentence(tmp_path / "d", f"configurations {', '.join(names)}; choose", config="other")
    assert opened(tmp_path / "d", config=names[7]).labels.tolist() == [1]


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train={"image": [photo(0)], "label": [1]})
    one_sentence(folder, "has the configurations default; choose one of them with --config", config="other")


def test_the_cause_of_a_failure_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.jsonl").write_text('{"label": 1}\n{"label":')
    one_sentence(tmp_path / "a", r"load_dataset.* failed \(ArrowInvalid: JSON parse error")
    other: dict[str, Any] = {"train-0": {"image": [photo(0)]}, "train-1": {"image": [photo(0)], "label": [1]}}
    write(tmp_path / "b", **other)
    one_sentence(tmp_path / "b", r"load_dataset.* failed \(CastError: .* because column names don't match\); check")


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train={"image": [photo(0)], "label": [1]})
    one_sentence(folder, "--revision is for data sets on the hub, .* a local folder", revision="main")


def test_what_load_dataset_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*arguments: Any, **options: Any) -> datasets.DatasetDict:
        asked.append((arguments, options))
        features = datasets.Features({"image": IMAGE, "label": LABEL})
        return datasets.DatasetDict(
            test=datasets.Dataset.from_dict({"image": [photo(0)], "label": [0]}, features=features)
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    opened("some/name", config="small", revision="v2")
    opened("some/name")
    assert asked == [(("some/name", "small"), {"revision": "v2"}), (("some/name", None), {"revision": None})]


@pytest.mark.parametrize("single", [True, False])
def test_what_save_to_disk_wrote(tmp_path: Path, single: bool) -> None:
    features = datasets.Features({"image": IMAGE, "label": LABEL})
    data = datasets.Dataset.from_dict({"image": [photo(i) for i in range(4)], "label": [0, 1, 0, 1]}, features=features)
    shuffled = data.shuffle(seed=1)
    (shuffled if single else datasets.DatasetDict(train=shuffled)).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert source.splits is not None
    assert source.splits.names == ("train",)
    by_bytes = {photo(i)["bytes"]: i % 2 for i in range(4)}
    assert [by_bytes[source.read(position)] for position in range(4)] == source.labels.tolist()


def test_a_parquet_file_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train={"image": [photo(0)], "label": [1]})
    assert opened(next(folder.glob("*.parquet"))).labels.tolist() == [1]


def test_webdataset_form_points_to_index(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / "train.tar", "w") as tar:
        for key in ("0", "1"):
            for suffix, content in (("cls", key.encode()), ("jpg", photo(int(key))["bytes"])):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    one_sentence(tmp_path / "d", "is in WebDataset form .* `python -m food101_fast.shards index`")
    source = opened(tmp_path / "d", image_column="jpg", label_column="cls")
    assert source.classes == ("0", "1")
    assert source.read(1) == photo(1)["bytes"]


def test_splits_with_other_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        name: datasets.Dataset.from_dict(
            {"image": [photo(0)], "label": [label]}, features=datasets.Features({"image": IMAGE, "label": kind})
        )
        for name, label, kind in (("train", 1, LABEL), ("test", "x", datasets.Value("string")))
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(parts))
    one_sentence("some/name", "the splits train, test of hub:some/name have different columns")


def test_prepare_counts_what_it_leaves_out(tmp_path: Path) -> None:
    columns = {"image": [*(photo(i) for i in range(9)), None], "label": [0, 1, 0, 1, 0, 1, 0, 1, -1, 1]}
    folder = write(tmp_path / "d", {"image": IMAGE, "label": LABEL}, train=columns)
    manifest = prepare(
        PrepareSettings(source=f"hub:{folder}", out=tmp_path / "out", size=16, fractions=(0.5, 0.25, 0.25), workers=1)
    )
    written = sum(split.samples for split in manifest.splits.values())
    assert (manifest.read, written, manifest.rejects) == (10, 8, {"no-image": 1, "no-label": 1})
