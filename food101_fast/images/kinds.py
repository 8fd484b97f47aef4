"""What a file is, by its first bytes: so that a file that can't be read as an image is named for what it is."""

from __future__ import annotations

from dataclasses import dataclass

_HEAD = 1024  # bytes that are looked at in a text

# Brands of ISO base media files (ISO/IEC 14496-12), in the order in which they decide: an AVIF may also have `mif1`.
_BRANDS = (
    ((b"avif", b"avis"), "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    ((b"crx ",), "CR3"),
    ((b"mif1", b"msf1"), "HEIC"),
)
_RAW = "a camera's raw file; export it as JPEG, PNG or TIFF"
_DRAWING = "a drawing without pixels; export it as PNG"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file."""

    name: str
    advice: str = ""
    """What it is, or what the user can do."""
    picture: bool = True
    """Whether such files have pictures."""

    def __str__(self) -> str:
        return f"{self.name}: {self.advice}" if self.advice else self.name


# First bytes, of pictures that Pillow or a plugin of it decodes.
_DECODED = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
)
# First bytes, name, advice: of pictures that are not decoded.
_PICTURES = (
    (b"8BPS", "PSD", "a Photoshop document; export it as PNG"),
    (b"gimp xcf", "XCF", "a GIMP document; export it as PNG"),
    (b"%PDF-", "PDF", "a document; extract its pictures"),
    (b"%!PS", "EPS or PostScript", _DRAWING),
    (b"\xc5\xd0\xd3\xc6", "EPS", _DRAWING),
    (b"\xd7\xcd\xc6\x9a", "WMF", _DRAWING),
    (b"FUJIFILMCCD-RAW", "RAF", _RAW),
    (b"IIU\0", "RW2", _RAW),
    (b"IIRO", "ORF", _RAW),
    (b"IIRS", "ORF", _RAW),
    (b"MMOR", "ORF", _RAW),
    (b"FOVb", "X3F", _RAW),
    (b"\0MRM", "MRW", _RAW),
    (b"v/1\x01", "OpenEXR", "it has no 8-bit range of values; export it as PNG"),
    (b"#?RADIANCE", "Radiance HDR", "it has no 8-bit range of values; export it as PNG"),
    (b"BPG\xfb", "BPG", "export it as PNG"),
    (b"DDS ", "DDS", "a texture; export it as PNG"),
    (b"icns", "ICNS", "icons of macOS; export them as PNG"),
)
# The same, of files that are not pictures.
_OTHERS = (
    (b"version https://git-lfs", "Git LFS pointer", "the image was not downloaded; run `git lfs pull`"),
    (b"\0\x05\x16\x07", "AppleDouble", "attributes of a file that macOS wrote; remove it"),
    (b"PK\x03\x04", "ZIP archive", "unpack it"),
    (b"PK\x05\x06", "ZIP archive", "it is empty"),
    (b"Rar!\x1a\x07", "RAR archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it"),
    (b"\x1f\x8b", "gzip file", "unpack it"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video", "extract its frames"),
    (b"\0\0\x01\xba", "MPEG video", "extract its frames"),
    (b"ID3", "MP3", "a sound"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE document", "such as Thumbs.db of Windows; remove it"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file", "extract its arrays"),
    (b"SQLite format 3\0", "SQLite database", ""),
    (b"\x7fELF", "program", ""),
)
_RIFF = {
    b"WEBP": Kind(name="WebP"),
    b"AVI ": Kind(name="AVI video", advice="extract its frames", picture=False),
    b"WAVE": Kind(name="WAV", advice="a sound", picture=False),
}
RAW_TIFF = Kind(name="raw file in TIFF", advice=_RAW)
DNG = Kind(name="DNG", advice=_RAW)
CR2 = Kind(name="CR2", advice=_RAW)


def kind_of(data: bytes) -> Kind | None:
    """The kind of a file; None if its first bytes are of no known one."""
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    if data[128:132] == b"DICM":
        return Kind(name="DICOM", advice="a medical image; export it as PNG")
    if data[:4] in (b"II*\0", b"MM\0*") and data[8:10] == b"CR":
        return CR2
    for start, name in _DECODED:
        if data.startswith(start):
            return Kind(name=name)
    for start, name, advice in _PICTURES:
        if data.startswith(start):
            return Kind(name=name, advice=advice)
    for start, name, advice in _OTHERS:
        if data.startswith(start):
            return Kind(name=name, advice=advice, picture=False)
    return _of_text(data)


def _of_brands(data: bytes) -> Kind:
    box = data[8 : min(int.from_bytes(data[:4]), _HEAD)]
    # The major brand, its version, and brands that the file is compatible with.
    brands = {box[at : at + 4] for at in range(0, len(box), 4) if at != 4}
    for known, name in _BRANDS:
        if not brands.isdisjoint(known):
            return Kind(name=name, advice=_RAW if name == "CR3" else "")
    return Kind(name="MP4 or QuickTime video", advice="extract its frames", picture=False)


def _of_text(data: bytes) -> Kind | None:
    text = data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return Kind(name="SVG", advice=_DRAWING)
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Kind(name="HTML", advice="a web page, as servers send it instead of a missing image", picture=False)
    if text.startswith((b"<?xml", b"<error", b"{")):
        return Kind(name="XML or JSON", advice="a text, perhaps the error of a server", picture=False)
    return None
