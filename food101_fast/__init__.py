"""Train an image classifier from plain WebDataset tars as fast as the accelerator can run it.

The classes that programs use are here, and are imported when they are first used, since torch takes seconds. The
functions are in packages of the same names: `food101_fast.prepare.prepare`, `food101_fast.train.train`,
`food101_fast.evaluate.evaluate`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from food101_fast.startup import set_up_command

if TYPE_CHECKING:
    from food101_fast.loader import ShardLoader
    from food101_fast.predict import Classifier
    from food101_fast.runs.recipe import Recipe
    from food101_fast.shards import ShardSet

__version__ = "0.1.0"

__all__ = ["Classifier", "Recipe", "ShardLoader", "ShardSet", "__version__"]

_PACKAGES = {
    "Classifier": "food101_fast.predict",
    "Recipe": "food101_fast.runs.recipe",
    "ShardLoader": "food101_fast.loader",
    "ShardSet": "food101_fast.shards",
}


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return getattr(importlib.import_module(_PACKAGES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})


# `python -m food101_fast.train` imports this package, and then torch, before it comes to the command itself.
set_up_command(__name__)
