"""Beside other programs waiting threads of commands sleep, as torch's OpenMP library itself says; nobody else's do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from food101_fast.openmp import WAIT_POLICIES, runs_as_command, set_up_openmp
from food101_fast.processes import busiest_core, usable_cores

SCRIPT = ["-c", "import sys; sys.argv[0] = 'food101-fast'; from food101_fast.cli import main; main()"]

# Runs before any command: the cores are as busy as TEST_PERCENT says, and at the end it prints how threads will wait.
FIRST = """
import atexit, os, psutil, sys
psutil.cpu_percent = lambda interval, percpu: [float(os.environ["TEST_PERCENT"])] * os.cpu_count()
atexit.register(lambda: print("policy:", os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr))
"""


def run(*arguments: str, **variables: str) -> str:
    """Standard error of a Python process for which nothing is set but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "LOCAL_"))}
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=kept | {"PYTHONPATH": path} | variables, capture_output=True, text=True, check=False
    )
    return done.stderr


def displayed(*arguments: str, **variables: str) -> dict[str, str]:
    """What the OpenMP library prints of its settings when torch is loaded by a Python process."""
    shown = run(*arguments, OMP_DISPLAY_ENV="VERBOSE", **variables)
    pairs = (line.partition("=") for line in shown.splitlines() if "OMP_" in line and "=" in line)
    return {name.split()[-1]: value.strip(" '") for name, _, value in pairs}


@pytest.fixture(autouse=True)
def _needs_an_openmp_that_tells() -> None:
    if sys.platform != "linux":
        pytest.skip("asks the OpenMP library of torch's Linux builds")


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts FIRST before all processes that inherit the Python path."""
    (tmp_path / "sitecustomize.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("arguments", [["-m", "food101_fast.openmp"], [*SCRIPT, "prepare", "--help"]])
def test_beside_other_programs_waiting_threads_sleep(arguments: list[str]) -> None:
    assert "policy: passive" in run(*arguments, TEST_PERCENT="90")
    assert "policy: None" in run(*arguments, TEST_PERCENT="10")


@pytest.mark.usefixtures("first")
def test_it_is_set_before_torch_is_loaded() -> None:
    assert displayed("-m", "food101_fast.train", "--help", TEST_PERCENT="90")["GOMP_SPINCOUNT"] == "0"


@pytest.mark.parametrize("name", WAIT_POLICIES)
def test_who_says_how_to_wait_is_not_overruled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [100.0] * (os.cpu_count() or 1))
    environment = {name: "1", "OMP_NUM_THREADS": "3"}
    set_up_openmp(environment)
    assert environment == {name: "1", "OMP_NUM_THREADS": "3"}
    one = {"OMP_NUM_THREADS": "1"}
    set_up_openmp(one)
    assert one == {"OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs processor affinity")
def test_the_busiest_core_is_one_that_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 2, 9})
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [10.0, 90.0, 30.0, 50.0])
    assert busiest_core(0.1) == 0.3


def test_a_process_that_works_is_seen() -> None:
    cores = usable_cores()
    workers = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores)]
    try:
        assert busiest_core(1.0) > 0.5
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.usefixtures("first")
def test_what_the_user_has_set_stays() -> None:
    assert "policy: active" in run("-m", "food101_fast.openmp", TEST_PERCENT="90", OMP_WAIT_POLICY="active")


@pytest.mark.usefixtures("first")
def test_an_import_changes_nothing() -> None:
    assert "policy: None" in run("-c", "import food101_fast.train", TEST_PERCENT="90")


@pytest.mark.parametrize(
    ("original", "arguments", "expected"),
    [
        (["python", "-m", "food101_fast.train", "--run", "x"], ["-m", "--run", "x"], True),
        (["python", "-W", "error", "-m", "food101_fast.bench"], ["-m"], True),
        (["python", "-mfood101_fast.bench"], ["-m"], True),
        (["python", "-m", "food101_fast"], ["-m"], True),
        (["python", "-m", "food101_faster.train"], ["-m"], False),
        (["python", "-m", "mine", "food101_fast.train"], ["-m", "food101_fast.train"], False),
        (["python", "-m", "mine"], ["/path/of/mine.py"], False),
        (["python", "train.py", "-m", "food101_fast.train"], ["train.py", "-m", "food101_fast.train"], False),
        (["python", "-c", "pass"], ["-c"], False),
        ([], [], False),
    ],
)
def test_what_is_a_command(original: list[str], arguments: list[str], expected: bool) -> None:
    assert runs_as_command("food101_fast", arguments, original) is expected


def test_ranks_share_the_cores() -> None:
    for ranks, before, expected in (
        ("1", None, None),
        ("2", "1", str(max(1, usable_cores() // 2))),
        (str(4 * usable_cores()), "1", "1"),
        ("2", "5", "5"),
    ):
        environment = {"LOCAL_WORLD_SIZE": ranks} | ({} if before is None else {"OMP_NUM_THREADS": before})
        set_up_openmp(environment)
        assert environment.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(("limit", "most"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 4), ("", 4)])
def test_a_container_limits_the_cores(limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("food101_fast.processes._cores", lambda: {0, 1, 2, 3})
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    monkeypatch.setattr("food101_fast.processes._CPU_LIMIT", path)
    assert usable_cores() == most
