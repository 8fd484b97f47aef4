"""Every command and every line of Python in the pages runs as it is written there, on drawn pictures.

A page's blocks run in order, in one folder and one Python session. A block that can't run here has a comment before it,
`<!-- skip: reason -->`.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from food101_fast.evaluate import evaluate
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.sources.demo import DemoSource
from food101_fast.shards import ShardSet
from food101_fast.train import RECIPES, train

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "shards" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SKIP = re.compile(r"<!-- skip: (.+?) -->\n$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None
    """Why it does not run."""


def blocks(page: Path) -> list[Block]:
    """What a page tells its reader to run."""
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        skip = SKIP.search(text[: fence.start()])
        line = text[: fence.start()].count("\n") + 1
        reason = skip[1] if skip else None
        found.append(Block(page=page.name, line=line, language=fence[1], code=fence[2], reason=reason))
    return [block for block in found if block.language in ("sh", "python")]


ALL = {page: blocks(page) for page in PAGES}


def test_each_fence_has_a_language() -> None:
    """A block without one would never run."""
    for page in PAGES:
        assert "" not in {fence[1] for fence in FENCE.finditer(page.read_text())}, page


def test_most_blocks_run() -> None:
    skipped = [block for found in ALL.values() for block in found if block.reason]
    assert len(skipped) < sum(len(found) for found in ALL.values()) / 2


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: photos, shards/food101, and two trained runs."""
    folder = tmp_path_factory.mktemp("reader")
    source = DemoSource()
    for label, name in enumerate(source.classes):
        (folder / "photos" / name).mkdir(parents=True)
        for position in np.flatnonzero(source.labels == label)[:20].tolist():
            (folder / "photos" / name / f"{position}.jpg").write_bytes(source.read(position))
    (folder / "photo.jpg").write_bytes(source.read(305))
    shards = folder / "shards" / "food101"
    prepare(PrepareSettings(source="demo:", size=64, limit=400, out=shards))
    for name, seed in (("baseline", 0), ("other", 1)):
        train(
            ShardSet.open(shards), folder / "runs" / name, replace(RECIPES["demo"], epochs=1, seed=seed), device="cpu"
        )
        evaluate(folder / "runs" / name, device="cpu")
    return folder


def run(folder: Path, command: str) -> str:
    """Run a shell command that uses this interpreter, and return what it printed; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    environment["FOOD101_FAST_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(not b.reason for b in ALL[page])], ids=lambda p: p.name)
def test_a_page_does_what_it_says(page: Path, reader: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(reader, folder)
    lines = ["import subprocess"]
    due = [block for block in ALL[page] if not block.reason]
    for number, block in enumerate(due, 1):
        # So that a traceback names the line of the page.
        code = "\n" * block.line + block.code
        if block.language == "python":
            lines.append(f"exec(compile({code!r}, {page.name!r}, 'exec'))")
        else:
            lines.append(f"subprocess.run(['bash', '-euxo', 'pipefail', '-c', {block.code!r}], check=True)")
        lines.append(f"print('block {number} of {page.name} has run', flush=True)")
    (tmp_path / "page.py").write_text("\n".join(lines))
    printed = run(folder, f"python {tmp_path / 'page.py'}")
    assert printed.count(f"of {page.name} has run\n") == len(due)


def messages() -> list[str]:
    """Every text in the package, with what is filled in as an ellipsis."""
    found = []
    for path in (ROOT / "food101_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                values = [str(value.value) if isinstance(value, ast.Constant) else "…" for value in node.values]
                found.append("".join(values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_troubleshooting_quotes_errors_as_they_are() -> None:
    """Each phrase in the first column is in a message of the program, or is one of the system's own words."""
    of_the_system = {"No space left on device", "Read-only file system", "Permission denied"}
    said = messages()
    quoted = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    phrases = [phrase for cell in quoted for phrase in re.findall(r"`([^`]+)`", cell)]
    assert len(phrases) > 30
    for phrase in phrases:
        pieces = [piece.strip() for piece in re.split(r"…|[()]", phrase) if piece.strip() not in of_the_system]
        found = any(all(piece in text for piece in pieces) for text in said)
        assert found, f"no message of the program says {phrase!r}"
