"""JPEG shards decoded on the GPU: batched nvJPEG through torchcodec (extra `gpu-decode`).

The decoder reads the files directly from the mapped shards, a batch per call, on its own stream. The pixels differ
from those of libjpeg-turbo: nvJPEG repeats colors that are stored at half resolution, and libjpeg-turbo interpolates
them. So use one decoder for a whole run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.loader.buffers import Buffer, Loaded
from food101_fast.shards import Split

Decode = Callable[..., list[Tensor]]


def torchcodec_decoder() -> Decode:
    """`torchcodec.decoders.decode_jpeg`.

    Raises:
        UserError: torchcodec is not installed, is too old, or does not fit the installed torch.
    """
    try:
        decode_jpeg: Decode = importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"decode 'gpu' needs torchcodec 0.17 or newer ({str(error).partition(chr(10))[0]}); install it with "
            "`pip install 'food101-fast[gpu-decode]'`, or use decode 'cpu'"
        ) from error
    return decode_jpeg


class GpuDecoder:
    """Gathers like a split, but into rows on the device.

    Args:
        split: with encoding jpeg.
        device: where to decode.
        decode: takes a list of files as uint8 tensors, `mode` and `device`; returns a uint8 (3, H, W) tensor for each.

    Raises:
        UserError: the shards are not encoded as JPEG.
    """

    def __init__(self, split: Split, device: torch.device, decode: Decode) -> None:
        if split.encoding != "jpeg":
            raise UserError(f"decode 'gpu' is for JPEG shards, and these are {split.encoding}; use decode 'cpu'")
        self._split = split
        self._device = device
        self._decode = decode
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def gather(self, ids: NDArray[np.int64], out: Tensor) -> NDArray[np.int64]:
        """Decode the images `ids`, int64 (n,), into `out`, uint8 (n, row_bytes) on the device.

        Returns:
            Their labels, int64 (n,), on the host.

        Raises:
            DamagedDataError: bytes do not match their checksum, or an image does not decode to the stored size.
        """
        files, labels = self._split.payloads(ids)
        size = self._split.image_size
        if not files:
            return labels
        with torch.cuda.stream(self.stream):
            try:
                images = self._decode(files, mode="RGB", device=self._device)
            except RuntimeError as error:
                raise DamagedDataError(
                    f"one of the samples {ids.min()} to {ids.max()} of split {self._split.name} does not decode "
                    f"({error}); `python -m food101_fast.shards verify` says which"
                ) from error
            for sample, image in zip(ids.tolist(), images, strict=True):
                if image.shape != (3, size, size):
                    raise DamagedDataError(
                        f"sample {sample} of split {self._split.name} has the shape {tuple(image.shape)} and not "
                        f"(3, {size}, {size}); make the shards again"
                    )
            out.view(-1, size, size, 3).copy_(torch.stack(images).permute(0, 2, 3, 1))
        return labels


class DeviceRing:
    """Rows in the device's memory, filled there on `stream`; torch's allocator reuses the memory."""

    def __init__(self, row_bytes: int, device: torch.device, stream: Any) -> None:
        self._row_bytes = row_bytes
        self._device = device
        self._stream = stream

    def take(self, rows: int) -> Buffer:
        """Allocate memory for `rows` rows."""
        with torch.cuda.stream(self._stream):
            return Buffer(torch.empty(rows, self._row_bytes, dtype=torch.uint8, device=self._device))

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        """Return the rows without a copy, and start the copy of `numbers`."""
        if self._stream is None:
            return Loaded(buffer.rows, numbers)
        pinned = numbers.pin_memory()
        with torch.cuda.stream(self._stream):
            loaded = Loaded(buffer.rows, pinned.to(self._device, non_blocking=True), torch.cuda.Event())
            assert loaded.copied is not None
            loaded.copied.record(self._stream)
        return loaded
