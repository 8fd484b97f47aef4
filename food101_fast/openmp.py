"""Number of torch's OpenMP threads, and how they wait for each other. torch reads both settings when it is imported.

By default a waiting thread spins: it keeps its core busy for some milliseconds. That is fastest on an idle machine.
Beside another program, the thread that the others wait for then gets no core, and training runs at half the speed or
less. So if other programs are running, commands let waiting threads sleep. A program that imports this package keeps
its own settings.

Source: OpenMP 5.2, sections 21.1.2 (OMP_NUM_THREADS) and 21.2.5 (OMP_WAIT_POLICY).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence

from food101_fast.processes import busiest_core, usable_cores

# Each of these says how threads wait; the last two are those of GNU's and LLVM's libraries.
WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def set_up_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not set: let waiting threads sleep beside other programs, and divide the cores among ranks.

    Must be called before torch is imported. Takes 0.1 s, to measure how busy the cores are.

    Args:
        environment: is changed. torchrun's `LOCAL_WORLD_SIZE` is the number of ranks on the machine.
    """
    ranks = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    # torchrun sets 1 if the user has set nothing. Another number is the user's own.
    if ranks > 1 and environment.get("OMP_NUM_THREADS", "1") == "1":
        environment["OMP_NUM_THREADS"] = str(max(1, usable_cores() // ranks))
    if _waits_for_others(environment) and busiest_core(0.1) > 0.5:
        environment["OMP_WAIT_POLICY"] = "passive"


def _waits_for_others(environment: Mapping[str, str]) -> bool:
    """Whether there are several threads, and the user has not set how they wait."""
    return environment.get("OMP_NUM_THREADS") != "1" and not any(name in environment for name in WAIT_POLICIES)


def runs_as_command(package: str, arguments: Sequence[str], original: Sequence[str]) -> bool:
    """Whether this process was started as `python -m package` or `python -m package.command`.

    Must be called while the package is imported: only until Python has found the module, `-m` is its first argument.

    Args:
        package: its name.
        arguments: `sys.argv`.
        original: `sys.orig_argv`.
    """
    if list(arguments[:1]) != ["-m"] or len(original) < len(arguments):
        return False
    module = original[-len(arguments)].removeprefix("-m")
    return module == package or module.startswith(f"{package}.")
