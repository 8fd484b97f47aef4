"""Labels in tars: what is a number, a name or nothing, and numbers that are not classes.

Reports: huggingface/datasets#4511 (-1 for a missing label), aqlaboratory/openfold-3#167 (NaN in a data set's JSON,
which Python writes and strict readers refuse).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from food101_fast.errors import UserError
from food101_fast.shards.foreign import labels as labels_module
from tests.troubles.tars import image, index, labels, rejects, write_tar


def of(folder: Path, contents: list[bytes], suffix: str = "cls", **options: Any) -> list[str]:
    """Class names of samples with these label files."""
    members = [
        (f"{n}.{end}", content)
        for n, label in enumerate(contents)
        for end, content in (("png", image(n)), (suffix, label))
    ]
    index(write_tar(folder / "train.tar", members), **options)
    return labels(folder)


@pytest.mark.parametrize(
    ("contents", "names"),
    [
        ([b"007", b"7", b"120"], ["007", "7", "120"]),
        ([b"2.0", b"1", b"0.00 \n"], ["2", "1", "0"]),
        ([b"00", b"01"], ["00", "01"]),
        (["\ufeff1".encode(), b"0"], ["1", "0"]),
        (["Crème".encode(), b"$x\\%"], ["Crème", "$x\\%"]),
        ([b"1" * 30, b"cat"], ["1" * 30, "cat"]),
    ],
)
@pytest.mark.parametrize("suffix", ["cls", "label", "txt", "class"])
def test_numbers_and_names_in_text(tmp_path: Path, contents: list[bytes], names: list[str], suffix: str) -> None:
    assert of(tmp_path, contents, suffix) == names


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe1\x00", b"cat\ndog", b"\0", b"-1"])
def test_a_text_without_a_label_drops_its_sample(tmp_path: Path, content: bytes) -> None:
    assert of(tmp_path, [b"cat", content, b"dog"]) == ["cat", "dog"]
    assert [(line["reason"], line["file"]) for line in rejects(tmp_path)] == [("no-label", "train.tar/1.png")]


@pytest.mark.parametrize(
    "content",
    [
        b'{"label": null}',
        b'{"label": NaN}',
        b'{"label": Infinity}',
        b'{"label": 2.5}',
        b'{"label": -1}',
        b'{"label": true}',
        b'{"label": "\\ud800"}',
        b'{"label": ""}',
        b'{"label": [1]}',
        b'{"other": 1}',
        b'{"\\ud800\\n": 1}',
        b"{",
        b"",
        b"3",
        b"\xff",
        b"[" * 100_000,
        b'{"label": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_json_without_a_label_drops_its_sample(tmp_path: Path, content: bytes) -> None:
    assert of(tmp_path, [b'{"label": 1}', content, b'{"label": 0}'], "json") == ["1", "0"]
    assert [(line["reason"], line["file"]) for line in rejects(tmp_path)] == [("no-label", "train.tar/1.png")]


@pytest.mark.parametrize(
    "content", [b'{"label": 2.0}', b'{"label": 2, "score": NaN}', b'\xef\xbb\xbf{"label": 2, "text": "\\ud800"}']
)
def test_a_json_whose_label_is_fine_is_used(tmp_path: Path, content: bytes) -> None:
    assert of(tmp_path, [content, b'{"label": 0}'], "json") == ["2", "0"]


def test_names_in_json_with_leading_zeros_stay(tmp_path: Path) -> None:
    assert of(tmp_path, [b'{"label": "007"}', b'{"label": "7"}'], "json") == ["007", "7"]


@pytest.mark.parametrize("number", [2_000, 1_700_000_000, 10**17])
def test_ids_and_times_are_refused_before_memory_is_allocated(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match=rf"labels go up to {number} and only 2 .* look like ids or times"):
        of(tmp_path, [b"0", b"%d" % number])
    assert of(tmp_path, [b"0", b"%d" % number], classes=["0", "5", str(number)]) == ["0", str(number)]
    with pytest.raises(UserError, match="labels go from -2 to 0 and should be from 0"):
        of(tmp_path, [b"0", b"-2"], replace=True)
    with pytest.raises(UserError, match="labels go from 0 to"):
        of(tmp_path, [b"0", b"%d" % number], classes=["a", "b"], replace=True)


@pytest.mark.parametrize(
    ("contents", "odd"),
    [
        ([b"0", b"1", b"bee", b"2"], r"1 of 4 is text, such as 'bee' of train\.tar/2\.png"),
        ([b"ant", b"3", b"bee"], r"1 of 3 is a number, such as 3 of train\.tar/1\.png"),
        ([b"ant", b"3", b"bee", b"wasp", b"4"], r"2 of 5 are numbers, such as 3 of train\.tar/1\.png"),
        ([b"3", b"007", b"bee", b"4", b"5", b"6"], r"2 of 6 are text, such as 'bee' of train\.tar/2\.png"),
    ],
)
def test_the_rarer_kind_of_label_is_named(tmp_path: Path, contents: list[bytes], odd: str) -> None:
    with pytest.raises(UserError, match=odd):
        of(tmp_path, contents)


def test_a_label_that_is_not_among_the_classes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"should be from 0 to 1, .* unlike the label 7 of train\.tar/2\.png"):
        of(tmp_path, [b"0", b"1", b"7"], classes=["a", "b"])
    with pytest.raises(UserError, match=r"unlike the label -2 of train\.tar/1\.png"):
        of(tmp_path, [b"0", b"-2"])
    with pytest.raises(UserError, match=r"the label 'c' of train\.tar/1\.png is not among the 2 names"):
        of(tmp_path, [b"a", b"c"], classes=["a", "b"])


def test_a_few_classes_of_many_are_not_ids(tmp_path: Path) -> None:
    """One tar of a data set with 1,000 classes."""
    assert of(tmp_path, [b"999", b"3"]) == ["999", "3"]


def test_captions_are_not_classes() -> None:
    captions = [f"a photo of dish {number}" for number in range(2000)]
    with pytest.raises(UserError, match=r"2,000 samples have 2,000 different labels.*ids or captions"):
        labels_module.number_classes(captions)
    assert len(labels_module.number_classes(captions, captions)[0]) == 2000
    assert len(labels_module.number_classes([*captions, *captions])[0]) == 2000


def test_a_field_that_no_sample_has_is_refused_with_the_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"field 'label' \(its fields: id, class\); name the right one with --label-fi"):
        of(tmp_path, [orjson.dumps({"id": 1, "class": 3})], "json")
    assert of(tmp_path, [orjson.dumps({"id": 1, "class": 3})], "json", label_field="class") == ["3"]
