"""What comes out of one file: the right pixels, or the right reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from food101_fast.prepare.clean import RejectedError, clean
from tests.conftest import encoded, picture


def reason(data: bytes) -> str:
    with pytest.raises(RejectedError) as error:
        clean(data, 32, "crop")
    return error.value.reason


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize(("width", "height"), [(80, 40), (40, 80), (33, 32), (500, 400), (20, 30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_crop_keeps_the_centre(width: int, height: int, kind: str) -> None:
    image = picture(1, width, height)
    side = min(image.size)
    left, top = (width - side) / 2, (height - side) / 2
    expected = image.resize((32, 32), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    got = clean(encoded(image, kind, **options), 32, "crop")
    assert got.shape == (32, 32, 3)
    assert got.dtype == np.uint8
    assert largest_difference(got, np.asarray(expected)) <= (12 if kind == "JPEG" else 0)


def test_squash_keeps_everything() -> None:
    image = picture(1, 90, 40)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert largest_difference(clean(encoded(image, "PNG"), 32, "squash"), expected) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    image = picture(2, 64, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        1: image,
        2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: image.rotate(180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: image.transpose(Image.Transpose.TRANSPOSE),
        6: image.rotate(90, expand=True),
        7: image.transpose(Image.Transpose.TRANSVERSE),
        8: image.rotate(-90, expand=True),
    }[orientation]
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    got = clean(encoded(undo, kind, exif=exif, **options), 64, "crop")
    assert largest_difference(got, np.asarray(image)) <= 8


def test_a_nonsense_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 56624
    image = picture(3, 32, 32)
    assert np.array_equal(clean(encoded(image, exif=exif), 32, "crop"), clean(encoded(image), 32, "crop"))


def test_every_mode_becomes_rgb() -> None:
    grey = Image.new("L", (32, 32), 100)
    assert clean(encoded(grey), 32, "crop")[0, 0].tolist() == [100, 100, 100]
    cmyk = Image.new("RGB", (32, 32), (200, 60, 30)).convert("CMYK")
    assert largest_difference(clean(encoded(cmyk, quality=98), 32, "crop")[0, 0], np.array([200, 60, 30])) <= 4
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert clean(encoded(clear, "PNG"), 32, "crop")[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("RGB", (32, 32), (10, 200, 30)).quantize(4)
    assert clean(encoded(palette, "GIF"), 32, "crop")[0, 0].tolist() == [10, 200, 30]
    deep = Image.fromarray(np.full((32, 32), 40_000, np.uint16))
    assert clean(encoded(deep, "PNG"), 32, "crop")[0, 0].tolist() == [round(40_000 * 255 / 65535)] * 3


def test_what_is_no_image_is_dropped_with_its_reason() -> None:
    good = encoded(picture(4, 200, 150))
    assert reason(b"") == "empty"
    assert reason(b"<html><body>404</body></html>") == "not-an-image"
    assert reason(good[: len(good) // 2]) == "truncated"
    assert reason(encoded(picture(4, 60, 60), "PNG")[:-200]) == "truncated"


def test_damage_that_pillow_passes_over_is_found() -> None:
    data = bytearray(encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))))
    start = data.rindex(b"\xff\xda") + 14
    del data[start + 500 : start + 900]
    assert reason(bytes(data)) == "damaged-pixels"


def test_stray_bytes_in_the_header_do_no_harm_and_hide_none() -> None:
    data = encoded(picture(5, 200, 200))
    table, scan = data.index(b"\xff\xdb"), data.index(b"\xff\xda")
    junk = b"\x00stray\xff\x00"
    assert np.array_equal(clean(data[:table] + junk + data[table:], 32, "crop"), clean(data, 32, "crop"))
    middle = (scan + len(data)) // 2
    for damaged, expected in ((data[:middle], "truncated"), (data[:middle] + data[-200:], "damaged-pixels")):
        assert reason(damaged) == expected
        assert reason(damaged[:table] + junk + damaged[table:]) == expected


def test_odd_files_are_judged_by_what_is_seen_of_them(photographs: Path) -> None:
    """Each was looked at: the kept ones are whole pictures, the others show grey areas, garbage or nothing."""
    kept = """
        cmyk/jpegdec__jpg-cmyk-1.jpg control_ok/pillow__hopper.jpg corrupt/jpegdec__multiple-0xff-before-eoi.jpg
        derived/animated_gif_named.jpg gif/libvips__cogs.gif gif/pillow__iss634.webp png16/imagers__basn6a16.png
        truncated/pillow__truncated_app14.jpg weird_but_maybe_ok/pillow__junk_jpeg_header.jpg
        weird_but_maybe_ok/pillow__sugarshack.mpo weird_exif/pillow__invalid-exif.jpg
    """
    dropped = {
        "bomb/pillow__decompression_bomb.gif": "too-large",
        "corrupt/jpegdec__empty.jpg": "empty",
        "corrupt/jpegdec__max_size.jpg": "too-large",
        "corrupt/jpegdec__subtract-with-overflow.jpg": "damaged-pixels",
        "corrupt/pillow__broken_data_stream.png": "damaged-pixels",
        "corrupt_imagetestsuite/jpegdec__28c74d9284d9836017fd519f6932efd8.jpg": "damaged-pixels",
        "derived/food101_trunc50pct.jpg": "truncated",
        "derived/food101_trunc99pct.jpg": "truncated",
        "derived/html_named.jpg": "not-an-image",
        "jpeg_lossless/jpegdec__jpeg_lossless_sel2.jpg": "unsupported",
        "truncated/libvips__truncated.gif": "truncated",
        "weird_exif/pillow__hopper_bad_exif.jpg": "damaged-pixels",
    }
    folder = photographs / "odd-images"
    for name in kept.split():
        assert clean((folder / name).read_bytes(), 32, "crop").std() > 5, name
    assert {name: reason((folder / name).read_bytes()) for name in dropped} == dropped


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = encoded(Image.new("1", (16_000, 16_000)), "PNG")
    assert len(bomb) < 100_000
    assert reason(bomb) == "too-large"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]))
def test_arbitrary_bytes_never_crash(tail: bytes, magic: bytes) -> None:
    with pytest.raises(RejectedError):
        clean(magic + tail, 32, "crop")
