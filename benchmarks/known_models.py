"""Writes the fingerprints by which weights of another model are recognized: food101_fast/models/known_models.txt.

    python benchmarks/known_models.py

It builds every classification model of torchvision and timm, without memory for the weights: a few minutes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torchvision
from torch import nn

from food101_fast.models import guess
from food101_fast.models.backbone import Backbone
from food101_fast.models.libraries import library_of

_CLASSES = 1000  # of a head; the table has no heads
TARGET = Path(guess.__file__).with_name(guess.TABLE)


def main() -> None:
    """Write the table, and say which models could not be built."""
    warnings.simplefilter("ignore")
    builders: dict[str, Callable[[], nn.Module]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        builders[name] = functools.partial(library_of(name).network, Backbone(name=name), "none", _CLASSES)
    for name in timm.list_models():
        builders[f"timm/{name}"] = functools.partial(timm.create_model, name)
    known: dict[int, list[str]] = {}
    for name, build in builders.items():
        try:
            with guess.EmptyWeights():
                model = build()
            known.setdefault(guess.fingerprint_of(model), []).append(name)
        except Exception as error:  # each model fails in its own way
            print(f"{name} is left out: {error}")
    header = f"# torchvision {torchvision.__version__}, timm {timm.__version__}; written by benchmarks/known_models.py"
    lines = [header, *sorted(f"{value:016x} {' '.join(sorted(names))}" for value, names in known.items())]
    TARGET.write_text("\n".join(lines) + "\n")
    print(f"{sum(map(len, known.values()))} models in {TARGET}")


if __name__ == "__main__":
    main()
