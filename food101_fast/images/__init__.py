"""One image file's bytes in, an RGB picture of the stored size out, or the reason why the file is dropped.

Every file ends in one of three ways: accepted, accepted with a note, or dropped with a reason. The line between them is
drawn at the pixels: damage to them drops the file, damage beside them is noted.

JPEG is decoded by simplejpeg in strict mode, which reports damage in the pixel data that Pillow passes over, at the
smallest DCT scale that is not below the stored size. Everything else is Pillow's.
"""

from food101_fast.images.clean import Scratch, clean
from food101_fast.images.rules import (
    MAX_PIXELS,
    REASONS,
    Check,
    Cleaned,
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
    "Check",
    "Cleaned",
    "Fit",
    "Note",
    "NoteKind",
    "Reason",
    "RejectedError",
    "Rules",
    "Scratch",
    "clean",
]
