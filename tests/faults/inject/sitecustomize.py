"""Kills processes at a chosen file operation; every Python process with this folder on its path loads it.

`KILL_AFTER` counts how often a process opens for writing, renames, creates or removes something below `KILL_BELOW`.
`KILL_ROLE` says who counts: the `parent`, a `worker`, or `any`. Then `KILL_WHOM` is killed: the `group` of processes,
as when a machine goes down, or the process `self`.
"""

import os
import signal
import sys

_left = int(os.environ["KILL_AFTER"])
_below = os.environ["KILL_BELOW"]
_role = "worker" if "forkserver" in " ".join(sys.orig_argv) else "parent"


def _changes_files(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        return _below in str(path) and isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") and _below in str(arguments[0])


def _count(event: str, arguments: tuple[object, ...]) -> None:
    global _left
    if _changes_files(event, arguments):
        _left -= 1
        if _left == 0:
            whom = os.getpgid(0) if os.environ["KILL_WHOM"] == "group" else None
            if whom is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                os.killpg(whom, signal.SIGKILL)


if os.environ["KILL_ROLE"] in (_role, "any"):
    sys.addaudithook(_count)
