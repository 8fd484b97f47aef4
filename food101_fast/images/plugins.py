"""HEIC and JPEG XL, which Pillow reads with plugins: the extra `formats` of the package."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

from food101_fast.images.kinds import Kind
from food101_fast.images.rules import RejectedError, Rules, check_size

_DISTRIBUTIONS = ("pillow-heif", "pillow-jxl-plugin")


def plugin_versions() -> dict[str, str]:
    """Versions of the plugins that are installed, by name of the distribution."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def plugin_format(kind: Kind | None, data: bytes, rules: Rules) -> str | None:
    """Pillow's name of the format, if a plugin decodes it, which is then registered; else None.

    Raises:
        RejectedError: the plugin is not installed, or the picture has too many pixels or too few.
    """
    if kind is None or kind.name not in ("HEIC", "JPEG XL"):
        return None
    name = _registered(kind.name)
    if name is None:
        raise RejectedError("unsupported", f"{kind.name}: install food101-fast[formats]")
    if name == "JXL":
        width, height, _ = jxl_header(data)  # before the plugin is called, since it decodes when it opens a file
        check_size(width, height, rules)
    return name


@functools.cache
def _registered(kind: str) -> str | None:
    try:
        if kind == "HEIC":
            from pillow_heif import register_heif_opener

            register_heif_opener()
            return "HEIF"
        import pillow_jxl  # noqa: F401  # registers itself
    except ImportError:
        return None
    return "JXL"


def jxl_header(data: bytes) -> tuple[int, int, bool]:
    """Width, height, and whether a JPEG XL has an orientation of its own, which its decoder applies.

    Source: ISO/IEC 18181-1, SizeHeader and ImageMetadata: fields of bits, the lowest bit of a byte first.

    Raises:
        RejectedError: there is no picture in the file.
    """
    start = 0 if data.startswith(b"\xff\x0a") else _codestream(data)
    bits = int.from_bytes(data[start + 2 : start + 16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    above, below = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    width = height * above // below if ratio else side()
    is_default = take(1)
    turned = not is_default and take(1) and take(3) != 0
    return width, height, bool(turned)


def _codestream(data: bytes) -> int:
    """Where the codestream starts in a container of boxes (ISO/IEC 18181-2)."""
    at = 0
    while at + 16 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            return at + head + (4 if kind == b"jxlp" else 0)
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
        if length < head:
            break
        at += length
    raise RejectedError("damaged-pixels", "a JPEG XL without a picture")
