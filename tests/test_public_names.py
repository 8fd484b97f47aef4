"""What `import food101_fast` gives, and that it costs nothing."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import food101_fast


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, food101_fast; print([n for n in ('torch', 'numpy', 'PIL', 'psutil') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_names_are_those_of_their_packages() -> None:
    from food101_fast import Classifier, Recipe, ShardLoader, ShardSet, loader, predict, shards, train

    assert (Classifier, Recipe) == (predict.Classifier, train.Recipe)
    assert (ShardLoader, ShardSet) == (loader.ShardLoader, shards.ShardSet)
    assert set(food101_fast.__all__) <= set(dir(food101_fast))
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        food101_fast.Classifer  # noqa: B018


def test_every_package_says_what_is_at_home_there() -> None:
    for module in pkgutil.iter_modules(food101_fast.__path__, "food101_fast."):
        if module.ispkg:
            package = importlib.import_module(module.name)
            assert package.__doc__, module.name
            for name in getattr(package, "__all__", []):
                assert getattr(package, name) is not None
