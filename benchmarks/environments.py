"""Scripts that run in environments of their own, so that no peer decides another's versions. Does without torch.

A script names what it needs in a PEP 723 block, and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from food101_fast.errors import UserError

HERE = Path(__file__).parent / "peers"
ENVIRONMENTS = HERE / ".envs"


def environment(script: Path, envs: Path | None) -> Path:
    """The interpreter of a script's environment, which is made if it is not there.

    Scripts that need the same share one.

    Args:
        script: with a PEP 723 block.
        envs: folder for environments; None for this interpreter, with whatever is installed.

    Raises:
        UserError: something can't be installed.
    """
    if envs is None:
        return Path(sys.executable)
    block = re.search(r"^# /// script\n(.*?)^# ///$", script.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    described = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    dependencies = described["dependencies"]
    if not dependencies:
        return Path(sys.executable)
    folder = envs / (script.stem.partition("_")[2] or script.stem)
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "base.pth").write_text("\n".join(site.getsitepackages()))  # torch and all the rest
    install = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
    alone = described.get("tool", {}).get("peers", {}).get("without-dependencies", [])
    for packages_of_one in (dependencies, [*alone, "--no-deps"] if alone else []):
        if packages_of_one:
            try:
                subprocess.run([*install, *packages_of_one], check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                raise UserError(f"can't be installed: {_last_line(error.stderr, 'pip failed')}") from error
    (folder / "complete").touch()
    return python


def reported(script: Path, python: Path, options: Mapping[str, object]) -> dict[str, Any]:
    """What a script prints, run with flags.

    Raises:
        UserError: it fails; with the last line it wrote.
    """
    command = [str(python), str(script), *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
    process = subprocess.run(command, capture_output=True, text=True, env=_variables(), check=False)
    if process.returncode:
        raise UserError(_last_line(process.stderr, f"{script.name} ended without a word"))
    report: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return report


def _variables() -> dict[str, str]:
    """Environment variables of a script: it imports this project."""
    own = [str(HERE.parent.parent), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, own)), "PYTHONWARNINGS": "ignore"}


def _last_line(text: str, otherwise: str) -> str:
    return (text.strip().splitlines() or [otherwise])[-1]
