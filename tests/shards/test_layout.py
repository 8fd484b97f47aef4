"""Keys that every tar reader takes, whatever the names in the source."""

from __future__ import annotations

import io
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.shards.layout import npy_header, sample_keys


@given(st.lists(st.text(max_size=80), min_size=1, max_size=6, unique=True), st.data())
def test_keys_are_unique_short_and_plain(classes: list[str], data: st.DataObject) -> None:
    samples = data.draw(st.lists(st.tuples(st.integers(0, len(classes) - 1), st.text(max_size=80)), max_size=30))
    labels = np.array([label for label, _ in samples], np.int64)
    keys = sample_keys(tuple(classes), labels, [name for _, name in samples])
    assert len(set(keys)) == len(samples)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", key)
        assert len(key + ".npy") <= 100
    folder_of = {label: key.partition("/")[0] for key, label in zip(keys, labels.tolist(), strict=True)}
    assert len({folder.lower() for folder in folder_of.values()}) == len(folder_of)
    assert len({key.lower() for key in keys}) == len(samples)
    assert all(key.startswith(folder_of[label] + "/") for key, label in zip(keys, labels.tolist(), strict=True))


def test_usual_names_are_kept() -> None:
    assert sample_keys(("apple_pie",), np.zeros(2, np.int64), ["1005649", "7.5 inch"]) == [
        "apple_pie/1005649",
        "apple_pie/7_5_inch",
    ]


def test_the_header_is_numpys_own() -> None:
    image = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    stream = io.BytesIO()
    np.save(stream, image)
    assert stream.getvalue() == npy_header(24) + image.tobytes()
