"""Pictures inside a page: small copies of stored images as data URLs."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LARGEST = 128  # pixels; twice what is shown, for dense screens
_QUALITY = 80


def data_url(picture: Image.Image, kind: str, **options: object) -> str:
    """A picture as a `data:` URL."""
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A stored image, uint8 (H, W, 3), as a `data:` URL of at most 128 x 128 pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LARGEST, _LARGEST))
    return data_url(picture, "JPEG", quality=_QUALITY)
