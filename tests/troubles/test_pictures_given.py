"""A picture gives the probabilities of its file, however it is handed over; anything else is one sentence.

Public reports: python-pillow/Pillow#9109 (an opened picture is not turned upright), python-pillow/Pillow#5991 and
pytorch/vision#2218 (16 bits become white), pytorch/pytorch#20524 (the same in silence, "wasted 3 hours").
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from food101_fast import Classifier
from food101_fast.errors import UserError
from food101_fast.images import RejectedError
from tests.conftest import encoded, picture

# Mode and a format that stores it.
STORED = (
    *(("RGB", "PNG"), ("L", "PNG"), ("1", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF")),
    *(("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("RGBA", "WEBP"), ("I;16", "PNG"), ("I;16", "TIFF")),
    *(("RGBX", "TIFF"), ("I;16", "PPM"), ("RGB", "BMP"), ("RGBA", "TGA"), ("RGB", "AVIF")),
)


def opened(data: bytes, path: Path | None = None, *, load: bool = True) -> Image.Image:
    """A picture as `Image.open(path)` gives it, without an open file that the test would have to close."""
    image = Image.open(io.BytesIO(data))
    if load:
        image.load()
    if path is not None:
        image.filename = str(path)
    return image


@pytest.fixture
def classifier(moved_run: Path) -> Classifier:
    return Classifier.load(moved_run, device="cpu")


def of_mode(mode: str, width: int = 75, height: int = 90) -> Image.Image:
    rgb = picture(3, width, height)
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgb.putalpha(picture(4, width, height).convert("L"))
        if mode == "PA":
            return rgb.convert("RGB").quantize(16).convert("PA")
        return rgb.convert("LA").convert("La") if mode == "La" else rgb.convert(mode)
    return rgb.convert(mode)


def all_equal(classifier: Classifier, given: list[object], expected: bytes) -> None:
    for number, one in enumerate(given):
        assert np.array_equal(classifier.pixels(one), classifier.pixels(expected)), number  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "kind"), STORED)
def test_a_pillow_picture_gives_the_pixels_of_its_file(
    classifier: Classifier, tmp_path: Path, mode: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(encoded(of_mode(mode), kind))
    loaded = opened(path.read_bytes())
    with Image.open(path) as lazy:
        all_equal(classifier, [path, str(path), lazy, loaded], path.read_bytes())
    if kind != "PPM":  # a copy no longer says that its 32-bit numbers are 16-bit ones
        all_equal(classifier, [loaded.copy()], path.read_bytes())
    assert torch.equal(classifier(loaded), classifier(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_pillow_picture_is_turned_upright_as_its_file_is(
    classifier: Classifier, tmp_path: Path, orientation: int, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encoded(picture(5, 40, 60), kind, exif=exif))
    data = path.read_bytes()
    upright = ImageOps.exif_transpose(opened(data))
    all_equal(classifier, [opened(data, load=False), opened(data, path)], data)
    # Pillow decodes a JPEG to slightly other pixels than `prepare`.
    for given in (upright, opened(data).copy()):
        apart = classifier.pixels(given).astype(int) - classifier.pixels(data)
        assert np.abs(apart).max() <= (12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_read_from_its_file_unless_it_was_changed(
    classifier: Classifier, tmp_path: Path, mode: str
) -> None:
    """Pillow decodes all pixels of a JPEG, and `prepare` at a reduced size."""
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    path.write_bytes(encoded(Image.fromarray(noise).convert(mode), quality=95))
    data = path.read_bytes()
    loaded = opened(data, path)
    lazy = opened(data, load=False)
    all_equal(classifier, [lazy, loaded], data)
    lazy.load()  # still possible
    assert lazy.tobytes() == loaded.tobytes()
    with Image.open(path) as from_path:
        all_equal(classifier, [from_path], data)
    for change in ("thumbnail", "paste", "draft"):
        changed = opened(data, path, load=False)
        if change == "thumbnail":
            changed.thumbnail((50, 50))
        elif change == "paste":
            changed.paste(0, (0, 0, 200, 200))
        else:
            changed.draft("L", (60, 60))
        assert not np.array_equal(classifier.pixels(changed), classifier.pixels(data)), change
    path.unlink()
    assert np.abs(classifier.pixels(loaded).astype(int) - classifier.pixels(data)).mean() < 12


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa", "RGBX", "1", "I;16"])
def test_a_picture_made_in_memory_may_have_any_mode(classifier: Classifier, mode: str) -> None:
    made = of_mode(mode)
    rgb = made.convert("LA") if mode == "La" else made
    if mode == "I;16":
        rgb = Image.fromarray((np.asarray(made) / 257).astype(np.uint8))
    white = Image.new("RGBA", made.size, "white")
    expected = Image.alpha_composite(white, rgb.convert("RGBA")) if mode in ("PA", "La", "RGBa") else rgb
    assert np.array_equal(classifier.pixels(made), classifier.pixels(encoded(expected.convert("RGB"), "PNG")))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused_as_in_a_file(classifier: Classifier, mode: str) -> None:
    made = of_mode("L").convert(mode)
    for given in (made, encoded(made, "TIFF")):
        with pytest.raises(RejectedError, match=f"mode {mode} has no known range of values"):
            classifier.pixels(given)


def test_arrays_files_and_buffers_are_taken(classifier: Classifier, tmp_path: Path) -> None:
    image = picture(6, 70, 50)
    pixels, data = np.asarray(image), encoded(image, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        given = [pixels, np.asfortranarray(pixels), pixels[:, ::-1][:, ::-1], bytearray(data), memoryview(data)]
        all_equal(classifier, [*given, file, io.BytesIO(data)], data)
    together = classifier([pixels, bytearray(data), io.BytesIO(data), image, path])
    assert together.shape == (5, 3)
    torch.testing.assert_close(together, classifier(path).expand(5, -1))
    assert torch.equal(classifier(one for one in (pixels, image)), classifier([pixels, image]))
    assert torch.equal(classifier(pixels), classifier(data))
    assert classifier([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "NoneType"),
        (17, "int"),
        ({"image": b""}, "dict"),
        ([[b""]], "list"),
        (torch.zeros(3, 8, 8), r"a torch.Tensor of shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), r"a NumPy array float32 \(8, 8, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"a NumPy array uint8 \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"a NumPy array uint8 \(2, 8, 8, 3\)"),
        (io.StringIO("text"), "a file that gives str"),
    ],
)
def test_anything_else_is_one_sentence(classifier: Classifier, given: object, named: str) -> None:
    with pytest.raises(UserError, match=rf"^{named} was given.*; (give|open) ") as raised:
        classifier(given)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_picture_that_is_not_whole_is_named_as_its_file_is(classifier: Classifier) -> None:
    for kind in ("JPEG", "PNG"):
        cut = encoded(picture(7, 90, 90), kind)[:-300]
        with pytest.raises(RejectedError, match="truncated"):
            classifier.pixels(Image.open(io.BytesIO(cut)))
