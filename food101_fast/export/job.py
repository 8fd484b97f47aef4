"""Write a run's model into a new folder for other programs, and compare its probabilities before the folder appears."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from PIL import Image
from torch import Tensor, nn

from food101_fast.compute.precision import Precision
from food101_fast.errors import UserError
from food101_fast.export.card import Parity, model_card
from food101_fast.export.program import Program
from food101_fast.predict import Classifier
from food101_fast.runs.calibration import temperature_of
from food101_fast.runs.checkpoint import WEIGHTS_NAME, packed
from food101_fast.runs.run import Run, load_model, read_run
from food101_fast.storage import write_atomically, writing

PROGRAM_NAME = "model.pt2"
ONNX_NAME = "model.onnx"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"

TOLERANCE = 1e-4
"""Largest difference of a probability from the run's own."""

_PARITY_IMAGES = 3  # of each size
_ONNX_EXTRA = ("onnx", "onnxscript", "onnxruntime")
# A protocol buffer can't be larger than 2 GiB; from this size on, weights go into a separate file.
_LARGEST_INSIDE = 1 << 30

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The files of an export, and how far their probabilities are from the run's."""

    folder: Path
    files: tuple[Path, ...]
    differences: dict[str, float]
    """The largest difference of a probability, by file."""


def export(
    folder: Path,
    out: Path | None = None,
    *,
    checkpoint: str = "best",
    onnx: bool = False,
    calibrated: bool = False,
) -> Exported:
    """Export a run's model; only the run's folder is needed.

    Writes `model.pt2` (`torch.export`), `model.safetensors`, `config.json`, `README.md` (a model card in the layout of
    the Hugging Face hub), and with `onnx` also `model.onnx`. The programs take uint8 images (N, 3, H, W) of any size
    and return float32 probabilities (N, classes), computed in float32 on the CPU.

    Args:
        folder: of the run.
        out: a folder that does not exist yet; by default `export` in the run.
        checkpoint: `best`, `last` or another one that was kept.
        onnx: whether to write ONNX too; needs the extra `onnx`.
        calibrated: whether the programs divide logits by the temperature that `evaluate` has fitted.

    Raises:
        UserError: there is no such run or checkpoint; `out` exists or can't be written; the extra is missing; no
            temperature was fitted; or the probabilities of an exported program differ from the run's, and then nothing
            is written.
    """
    run = read_run(folder)
    out = folder / "export" if out is None else out
    if out.exists():
        raise UserError(f"{out} already exists; remove it, or give another --out")
    if onnx and not all(map(importlib.util.find_spec, _ONNX_EXTRA)):
        raise UserError("--onnx needs the extra: pip install 'food101-fast[onnx]', or leave it out")
    cpu = torch.device("cpu")
    temperature = temperature_of(folder, checkpoint) if calibrated else 1.0
    model = load_model(folder, run, checkpoint)
    program = _exported(model, run, temperature)
    with _new_folder(out) as new:
        torch.export.save(program, new / PROGRAM_NAME)
        write_atomically(new / WEIGHTS_NAME, packed(model.state_dict()))
        predictors = {PROGRAM_NAME: _load_program(new / PROGRAM_NAME)}
        if onnx:
            _write_onnx(program, new / ONNX_NAME)
            predictors[ONNX_NAME] = _load_onnx(new / ONNX_NAME)
        sizes = _parity_sizes(run.stored_size)
        classifier = Classifier.of(run, model, cpu, Precision("off", cpu), temperature)
        differences = _compare(predictors, classifier, sizes)
        config = _config(run) | ({"temperature": temperature} if calibrated else {})
        write_atomically(new / CONFIG_NAME, orjson.dumps(config, option=orjson.OPT_INDENT_2))
        parity = Parity(images=_PARITY_IMAGES * len(sizes), sizes=len(sizes), differences=differences)
        card = model_card(folder, run, model, checkpoint, parity, temperature if calibrated else None)
        write_atomically(new / CARD_NAME, card.encode())
    return Exported(folder=out, files=tuple(sorted(out.iterdir())), differences=differences)


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` at the end, or removed after an error."""
    advice = "or give another --out"
    with writing(out, advice):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        with writing(out, advice):
            yield temporary
            temporary.chmod(0o755)  # only its owner can read a temporary folder
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exported(model: nn.Module, run: Run, temperature: float) -> torch.export.ExportedProgram:
    program = Program(model, rules=run.rules, spec=run.eval_spec, temperature=temperature).eval()
    # Different sizes, none of them 1, so that torch.export takes none for a constant.
    example = torch.zeros(2, 3, run.stored_size + 3, run.stored_size + 5, dtype=torch.uint8)
    dynamic = {"images": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(program, (example,), dynamic_shapes=dynamic)


def _load_program(path: Path) -> Predict:
    with warnings.catch_warnings():
        # In torch 2.11 the weights are views of the file's bytes; nothing writes to them.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        module = torch.export.load(path).module()
    return lambda images: module(images)


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    dynamic = {"images": {0: "batch", 2: "height", 3: "width"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Some versions of torch use functions here that they deprecated themselves.
        warnings.simplefilter("ignore", FutureWarning)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert converted is not None
    size = sum(weight.numel() * weight.element_size() for weight in program.state_dict.values())
    converted.save(path, external_data=size > _LARGEST_INSIDE)


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _parity_sizes(stored: int) -> list[tuple[int, int]]:
    """Heights and widths to compare: the stored size, larger and smaller, wide, tall, even and odd."""
    return [
        (stored, stored),
        (2 * stored + 5, 3 * stored + 2),
        (4 * stored + 3, stored + 4),
        (stored // 2 + 1, stored // 3 + 1),
        (stored - 1, 5 * stored),
    ]


def _compare(predictors: dict[str, Predict], classifier: Classifier, sizes: list[tuple[int, int]]) -> dict[str, float]:
    """The largest differences from the run's own probabilities.

    Raises:
        UserError: one is above `TOLERANCE`.
    """
    random = np.random.default_rng(0)
    differences = dict.fromkeys(predictors, 0.0)
    for height, width in sizes:
        coarse = random.integers(0, 256, (_PARITY_IMAGES, 4, 4, 3), np.uint8)
        pictures = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in coarse]
        expected = classifier(pictures)
        images = (
            torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()
        )
        for name, predictor in predictors.items():
            with torch.inference_mode():
                for got, wanted in ((predictor(images), expected), (predictor(images[:1]), expected[:1])):
                    differences[name] = max(differences[name], float((got - wanted).abs().max()))
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(
                f"{name} returns probabilities that differ from the run's by {difference:.1e}, more than the "
                f"{TOLERANCE:.0e} allowed, so nothing was written; please report the model and torch's version"
            )
    return differences


def _config(run: Run) -> dict[str, Any]:
    return {
        "architecture": run.backbone.name,
        "num_classes": len(run.classes),
        "id2label": {str(label): name for label, name in enumerate(run.classes)},
        "label2id": {name: label for label, name in enumerate(run.classes)},
        "preprocessing": {
            "fit": run.fit,
            "stored_size": run.stored_size,
            "resize": run.eval_spec.resize,
            "center_crop": run.eval_spec.crop,
            "interpolation": f"{run.inputs.interpolation}, antialiased",
            "mean": run.inputs.mean,
            "std": run.inputs.std,
        },
        "versions": run.versions,
    }
