"""A trained run as a function of images, which are prepared exactly as in evaluation, to the pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from food101_fast.compute.device import Device, choose_device
from food101_fast.compute.precision import Precision, inference_precision
from food101_fast.images import Rules
from food101_fast.predict.given import Picture, cleaned, is_picture
from food101_fast.runs.calibration import temperature_of
from food101_fast.runs.run import Run, load_model, read_run
from food101_fast.transforms import EvalSpec


class Classifier:
    """Classes and their probabilities for images of any size and format.

    Args:
        model: gives logits (N, classes) for normalized images.
        classes: their names.
        rules: how an image becomes one as in the shards.
        spec: how a stored image is resized and cropped.
        device: to compute on.
        precision: of the computation.
        temperature: that logits are divided by.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        rules: Rules,
        spec: EvalSpec,
        device: torch.device,
        precision: Precision,
        temperature: float = 1.0,
    ) -> None:
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes = classes
        self.rules = rules
        self._preset = spec.preset().to(device)
        self._device = device
        self._precision = precision
        self._temperature = temperature

    @classmethod
    def load(
        cls, run: str | Path, *, checkpoint: str = "best", device: Device = "auto", calibrated: bool = False
    ) -> Classifier:
        """The model of a run.

        Args:
            run: folder of a run; its shards are not needed.
            checkpoint: `best`, `last` or another one that was kept.
            device: to compute on.
            calibrated: whether to use the temperature that `evaluate` has fitted.

        Raises:
            UserError: the folder has no trained run, or there is no such device, or no temperature was fitted.
        """
        folder, where = Path(run), choose_device(device)
        stored = read_run(folder)
        precision = inference_precision(stored.recipe.amp, where)
        temperature = temperature_of(folder, checkpoint) if calibrated else 1.0
        return cls.of(stored, load_model(folder, stored, checkpoint), where, precision, temperature)

    @classmethod
    def of(
        cls, run: Run, model: nn.Module, device: torch.device, precision: Precision, temperature: float = 1.0
    ) -> Classifier:
        """A classifier from a run's model that is already loaded.

        Args:
            run: what was trained, on what.
            model: gives logits (N, classes) for normalized images.
            device: to compute on.
            precision: of the computation.
            temperature: that logits are divided by.
        """
        return cls(model, run.classes, run.rules, run.eval_spec, device, precision, temperature)

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """A picture as it would be in the shards: uint8 (size, size, 3), RGB, upright.

        A Pillow picture of any mode gives what its file gives, and is turned upright by its EXIF orientation. A JPEG
        picture that was not changed is read again from its file: large JPEG files are decoded at a reduced size, which
        gives slightly other pixels than Pillow's decoding.

        Args:
            picture: a path, a file's bytes (also as bytearray or memoryview), a file that is open for reading bytes, a
                Pillow picture, or a NumPy array uint8 (H, W, 3) in RGB.

        Raises:
            RejectedError: it is not a whole image.
            OSError: the file can't be read.
            UserError: it is something else.
        """
        return cleaned(picture, self.rules).pixels.copy()

    def probabilities(self, pixels: NDArray[np.uint8] | Tensor) -> Tensor:
        """Probabilities of images from `pixels`.

        Args:
            pixels: uint8 (N, size, size, 3).

        Returns:
            float32 (N, classes) on the CPU; rows add up to 1.
        """
        images = torch.as_tensor(pixels).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode(), self._precision.autocast():
            logits = self.model(self._preset(images))
        logits = cast(Tensor, logits).float()
        if self._temperature != 1.0:
            logits = logits.double() / self._temperature  # in float32 two logits could become equal
        return logits.softmax(dim=1).float().cpu()

    def __call__(self, images: Picture | Iterable[Picture]) -> Tensor:
        """Probabilities of one picture or several: float32 (N, classes) on the CPU, in the order of `classes`.

        Args:
            images: what `pixels` takes, or a list of such.

        Raises:
            RejectedError: one is not a whole image.
            OSError: a file can't be read.
            UserError: one is not a picture.
        """
        several = isinstance(images, Iterable) and not is_picture(images) and not isinstance(images, Mapping | Tensor)
        pictures = cast(Iterable[Picture], images) if several else [cast(Picture, images)]
        pixels = [self.pixels(picture) for picture in pictures]
        return self.probabilities(np.stack(pixels)) if pixels else torch.empty(0, len(self.classes))

    def top(self, probabilities: Tensor, k: int) -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each row, and their probabilities; of equal ones the lower label first."""
        values, labels = probabilities.sort(dim=1, descending=True, stable=True)
        return [
            [(self.classes[label], value) for label, value in zip(row, of, strict=True)]
            for row, of in zip(labels[:, :k].tolist(), values[:, :k].tolist(), strict=True)
        ]
