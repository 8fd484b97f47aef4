"""Files that phones, cameras and servers leave among photographs are read, or named for what they are.

Public reports: replicate/dreambooth#23 and jabberjabberjabber/ImageIndexer#58 (HEIC ends the run or is "not an image"),
python-pillow/Pillow#6482 and #5385 (of a raw file only the preview of 160 x 120 pixels is read, in silence),
GabrielePicco/deep-learning-flower-identifier#2 ("cannot identify image file").
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from food101_fast.images import MAX_PIXELS, Note, RejectedError, Rules, clean, plugins
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from tests.conftest import encoded, picture, write_folder

RULES = Rules(size=32)
HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(400)
HEIF = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(400)
JXL = b"\xff\x0a" + bytes(400)
JXL_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl " + bytes(400)


def raw_tiff(tags: dict[int, int | bytes]) -> bytes:
    """A TIFF with a small preview, as cameras begin their raw files."""
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = 1 if isinstance(value, bytes) else 4
        directory[tag] = value
    return encoded(picture(1, 160, 120), "TIFF", tiffinfo=directory)


def rejected(data: bytes, rules: Rules = RULES) -> str:
    with pytest.raises(RejectedError) as raised:
        clean(data, rules)
    return str(raised.value)


@pytest.fixture
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plugins._registered.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    yield
    plugins._registered.cache_clear()


@pytest.mark.usefixtures("without_plugins")
@pytest.mark.parametrize(("data", "name"), [(HEIC, "HEIC"), (HEIF, "HEIC"), (JXL, "JPEG XL"), (JXL_BOXES, "JPEG XL")])
def test_without_its_plugin_a_format_says_what_to_install(data: bytes, name: str) -> None:
    assert rejected(data) == f"unsupported: {name}: install food101-fast[formats]"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\0\1" + bytes(40), "unsupported: PSD: "),
        (b"%PDF-1.7\n", "unsupported: PDF: "),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported: SVG: "),
        (b'\xef\xbb\xbf <svg width="1">', "unsupported: SVG: "),
        (raw_tiff({50706: b"\1\4\0\0"}), "unsupported: DNG: "),
        (raw_tiff({254: 1, 330: 8}), "unsupported: raw file in TIFF: "),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(400), "unsupported: CR2: "),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported: CR3: "),
        (b"FUJIFILMCCD-RAW 0201", "unsupported: RAF: "),
        (b"IIRO\x08\0\0\0", "unsupported: ORF: "),
        (b"gimp xcf v011", "unsupported: XCF: "),
        (bytes(128) + b"DICM", "unsupported: DICOM: "),
        (b"v/1\x01\2\0\0\0", "unsupported: OpenEXR: "),
        (encoded(picture(1, 20, 20), "EPS"), "unsupported: EPS or PostScript: "),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "not-an-image: MP4 or QuickTime video: "),
        (b"RIFF\x24\0\0\0AVI LIST", "not-an-image: AVI video: "),
        (b"PK\3\4" + bytes(40), "not-an-image: ZIP archive: "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not-an-image: Git LFS pointer: "),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "not-an-image: AppleDouble: "),
        (b"<!DOCTYPE html><html>404</html>", "not-an-image: HTML: "),
        (b'{"error": "gone"}', "not-an-image: XML or JSON: "),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged-pixels: it starts like a PNG"),
        (b"noise of no kind", "not-an-image: no known image format"),
    ],
)
def test_a_file_is_named_for_what_it_is(data: bytes, name: str) -> None:
    assert rejected(data).startswith(name)


def test_a_tiff_of_several_pictures_is_still_read() -> None:
    assert clean(raw_tiff({254: 1}), RULES).note is None
    assert clean(raw_tiff({330: 8}), RULES).note is None


def test_prepare_lists_each_file_with_its_format(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "source"))
    others = {"a.heic": HEIC, "b.pdf": b"%PDF-1.7", "c.psd": b"8BPS\0\1", "d.dng": raw_tiff({50706: b"\1\4\0\0"})}
    if "pillow-heif" in plugins.plugin_versions():  # which workers can't be kept from
        others["a.heic"] = b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"
    for name, data in others.items():
        (folder / "ramen" / name).write_bytes(data)
    manifest = prepare(PrepareSettings(source=f"folder:{folder}", out=tmp_path / "out", size=32, workers=1))
    lines = map(orjson.loads, (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines())
    details = {Path(line["file"]).name: line["detail"].split(":")[0] for line in lines}
    assert details == {"a.heic": details["a.heic"], "b.pdf": "PDF", "c.psd": "PSD", "d.dng": "DNG"}
    assert details["a.heic"] in ("HEIC", "CR3")
    assert manifest.rejects == {"unsupported": 4}
    assert manifest.read == 73 + 4


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
class TestWithPlugins:
    """The pictures are made with the plugins themselves."""

    @pytest.fixture(autouse=True)
    def _plugins(self) -> None:
        pytest.importorskip("pillow_jxl", reason="needs pillow-jxl-plugin: install the extra formats")
        heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: install the extra formats")
        heif.register_heif_opener()

    def test_the_picture_is_read(self, kind: str) -> None:
        image = picture(2, 80, 60)
        expected = clean(encoded(image, "PNG"), RULES).pixels.astype(int)
        found = clean(encoded(image, kind), RULES)
        assert found.note is None
        assert np.abs(found.pixels - expected).mean() < 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_it_is_turned_upright(self, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        given = exif.tobytes()  # as bytes, pillow-heif writes it as cameras do
        image = picture(3, 64, 64)
        turned = clean(encoded(image, kind, exif=given), RULES).pixels.astype(int)
        as_png = clean(encoded(image, "PNG", exif=exif), RULES).pixels
        assert np.abs(turned - as_png).mean() < 4

    def test_a_jpeg_that_became_a_jxl_is_turned_once(self, kind: str, tmp_path: Path) -> None:
        """It has the orientation twice: in its EXIF, and in its own header for decoders of JPEG XL."""
        if kind != "JXL":
            return
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "a.jpg"
        path.write_bytes(encoded(picture(3, 64, 48), exif=exif, quality=95))
        with Image.open(path) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the plugin, about its own default
            data = encoded(image, "JXL", lossless_jpeg=True)
        assert plugins.jxl_header(data) == (64, 48, True)
        apart = clean(data, RULES).pixels.astype(int) - clean(path.read_bytes(), RULES).pixels
        assert np.abs(apart).mean() < 4

    def test_grey_alpha_and_16_bits_are_read_as_in_other_formats(self, kind: str) -> None:
        deep = Image.fromarray(np.full((32, 32), 40_000, np.uint16))
        clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
        for image, expected in ((deep, 156), (clear, 255), (Image.new("L", (32, 32), 90), 90)):
            assert np.abs(clean(encoded(image, kind), RULES).pixels.astype(int) - expected).max() <= 3

    def test_what_is_cut_or_damaged_is_dropped(self, kind: str) -> None:
        data = encoded(picture(4, 200, 200), kind)
        for length in (20, len(data) // 2, len(data) - 5):
            assert rejected(data[:length]).split(":")[0] in ("damaged-pixels", "truncated")

    @pytest.mark.parametrize(("width", "height"), [(400, 300), (401, 301), (257, 1025), (64, 64), (3000, 40)])
    def test_too_many_pixels_are_refused(self, kind: str, width: int, height: int) -> None:
        data = encoded(picture(5, width, height), kind)
        assert rejected(data, Rules(size=8, max_pixels=width * height - 1)).startswith(
            f"too-large: {width} x {height} pixels"
        )
        assert clean(data, Rules(size=8, max_pixels=width * height)).note is None

    def test_the_size_is_known_before_pixels_are_decoded(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(picture(6, 50, 40), kind)
        monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
        if kind == "JXL":  # its plugin decodes when it opens
            monkeypatch.setattr("pillow_jxl.JpegXLImagePlugin.JXLImageFile._open", lambda _: pytest.fail("decoded"))
        assert rejected(data, Rules(size=8, max_pixels=100)).startswith("too-large")

    def test_a_folder_is_prepared_and_resumed_with_their_versions(self, kind: str, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "source", {"a": 10, "b": 10})
        (folder / "a" / "more").write_bytes(encoded(picture(7, 50, 50), kind))
        manifest = prepare(PrepareSettings(source=f"folder:{folder}", out=tmp_path / "out", size=32, workers=1))
        assert manifest.rejects == {}
        assert set(plugins.plugin_versions()) == {"pillow-heif", "pillow-jxl-plugin"}


def test_the_first_of_several_heic_pictures_is_noted() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif: install the extra formats")
    heif.register_heif_opener()
    data = encoded(picture(1, 60, 60), "HEIF", save_all=True, append_images=[picture(2, 60, 60)])
    assert clean(data, RULES).note == Note("first-frame", "the first picture of a HEIF with several")


class TestMaxPixels:
    def test_the_limit_is_a_flag_and_in_the_manifest(
        self, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        folder = write_folder(tmp_path / "source", {"a": 10, "b": 10})
        (folder / "a" / "large.png").write_bytes(encoded(picture(1, 90, 80), "PNG"))
        common = ("prepare", "--source", f"folder:{folder}", "--size", "32", "--workers", "1", "--out")
        assert command(*common, str(tmp_path / "all"))[0] == 0
        assert command(*common, str(tmp_path / "small"), "--max-pixels", "7199")[0] == 0
        every, small = (ShardSet.open(tmp_path / name).manifest for name in ("all", "small"))
        assert every.rejects == {}
        assert small.rejects == {"too-large": 1}
        assert (every.max_pixels, small.max_pixels) == (MAX_PIXELS, 7199)
        code, _, err = command(*common, str(tmp_path / "all"), "--max-pixels", "7199")
        assert code == 2
        assert f"--max-pixels was {MAX_PIXELS} and is 7199 now" in err

    def test_manifests_of_the_default_are_those_of_earlier_versions(self, tiny_path: Path) -> None:
        """So that what was prepared before stays readable, and runs know it by its digest."""
        assert "max_pixels" not in orjson.loads((tiny_path / "manifest.json").read_bytes())
        assert ShardSet.open(tiny_path).manifest.max_pixels == MAX_PIXELS

    def test_more_than_pillow_allows_is_accepted_if_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pillow warns above a quarter of a GiB and refuses twice that; here with a small limit of both."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        monkeypatch.setattr("food101_fast.images.pillow.MAX_PIXELS", 1000)
        data = encoded(picture(1, 60, 50), "PNG")
        for in_threads in (False, True):
            rules = Rules(size=8, max_pixels=3000, in_threads=in_threads)
            assert clean(data, rules).pixels.shape == (8, 8, 3)
            assert rejected(data, Rules(size=8, max_pixels=2999)).startswith("too-large")
