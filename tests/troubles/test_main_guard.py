"""Scripts without `if __name__ == "__main__":`, whose new processes run them again from the start.

Public reports: argilla-io/distilabel#685, alex-sherman/unsync#50, yulunzhang/RCAN#126: "An attempt has been made to
start a new process before the current process has finished its bootstrapping phase", or BrokenProcessPool.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from food101_fast.processes import main_module_hidden
from tests.conftest import contents

SCRIPT = """
import multiprocessing, sys
{}
print("the script runs")
from food101_fast.prepare import PrepareSettings, prepare
settings = PrepareSettings(source=sys.argv[1], out=sys.argv[2], size=32, samples_per_shard=9, workers=2)
print(prepare(settings).read)
{}
"""
SPAWN = "multiprocessing.get_all_start_methods = lambda: ['spawn']"  # as on macOS and Windows


def run(script: str, *arguments: str, piped: bool = False, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, "-" if piped else str(path), *arguments],
        input=script if piped else "",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("first", "piped"),
    [
        pytest.param("", False, id="forkserver, file"),
        pytest.param("", True, id="forkserver, standard input", marks=pytest.mark.slow),
        pytest.param(SPAWN, False, id="spawn, file", marks=pytest.mark.slow),
        pytest.param(SPAWN, True, id="spawn, standard input"),
    ],
)
def test_prepare_needs_no_guard(tiny_folder: Path, tiny_path: Path, tmp_path: Path, first: str, piped: bool) -> None:
    out = tmp_path / "out"
    done = run(SCRIPT.format(first, ""), f"folder:{tiny_folder}", str(out), piped=piped, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["the script runs", "73", ""]  # once, not once for each worker
    assert done.stderr == ""
    assert contents(out) == contents(tiny_path)


@pytest.mark.parametrize("function", ["prepare", pytest.param("train", marks=pytest.mark.slow)])
def test_a_process_that_runs_the_script_again_is_told_why(tiny_path: Path, tmp_path: Path, function: str) -> None:
    """The script starts processes by itself, or through a library: it is they that come to our function again."""
    calls = {
        "prepare": "from food101_fast.prepare import PrepareSettings, prepare\n"
        "prepare(PrepareSettings(source='demo:', out=sys.argv[2], workers=1))",
        "train": "from pathlib import Path\n"
        "from food101_fast.shards import ShardSet\n"
        "from food101_fast.train import Recipe, train\n"
        "train(ShardSet.open(sys.argv[1]), Path(sys.argv[2]), Recipe(weights='none'))",
    }
    script = (
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)\n"
        f"{calls[function]}"
    )
    done = run(script, str(tiny_path), str(tmp_path / "out"), folder=tmp_path)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert f"{function}() was called while a new process imports the script" in sentence
    assert '`if __name__ == "__main__":`' in sentence
    assert not (tmp_path / "out").exists()


def test_the_main_module_is_as_before() -> None:
    main = sys.modules["__main__"]
    before = dict(vars(main))

    def body() -> None:
        with main_module_hidden():
            assert main.__spec__ is None
            assert not hasattr(main, "__file__")
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert dict(vars(main)) == before
