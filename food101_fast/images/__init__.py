"""One image file's bytes in, an RGB picture of the stored size out, or the reason why the file is dropped.

A file is accepted, accepted with a note, or dropped with a reason: damaged pixels drop it, damage elsewhere in the file
is noted.

JPEG is decoded by simplejpeg in strict mode, which reports damaged pixel data that Pillow ignores, by default at the
smallest DCT scale that is not below the stored size. Pillow decodes everything else.

- rules.py: which files are accepted; clean.py: `clean`, which all others call.
- jpeg.py and pillow.py decode; plugins.py finds Pillow's plugins for HEIC and JPEG XL.
- orientation.py has the EXIF orientation; kinds.py names files that are not decoded.
"""

from food101_fast.images.clean import Scratch, clean, clean_array, clean_picture
from food101_fast.images.plugins import plugin_versions
from food101_fast.images.rules import (
    MAX_PIXELS,
    REASONS,
    SUFFIXES,
    Check,
    Cleaned,
    Decode,
    Fit,
    Note,
    NoteKind,
    Reason,
    RejectedError,
    Rules,
)

__all__ = [
    "MAX_PIXELS",
    "REASONS",
    "SUFFIXES",
    "Check",
    "Cleaned",
    "Decode",
    "Fit",
    "Note",
    "NoteKind",
    "Reason",
    "RejectedError",
    "Rules",
    "Scratch",
    "clean",
    "clean_array",
    "clean_picture",
    "plugin_versions",
]
