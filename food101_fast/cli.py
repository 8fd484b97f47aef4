"""Shared by all commands: parsing into a dataclass, errors as one sentence, and the `food101-fast` script."""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from food101_fast import __version__
from food101_fast.errors import Notice, UserError
from food101_fast.openmp import set_up_openmp
from food101_fast.resources import first_line, machine_advice
from food101_fast.terminal import wrapped

COMMANDS = {
    "prepare": "decode every image once and write shards",
    "shards": "verify or show a folder of shards, or index foreign tars",
    "transforms": "a picture of samples before and after augmentation",
    "train": "train a model on shards",
    "evaluate": "measure a trained run on a split",
    "predict": "the most probable classes of images",
    "report": "a run, or a comparison of several, as one HTML page",
    "export": "a run as a PyTorch program, ONNX and weights, for other programs",
    "bench": "measure images per second of each stage",
}
USER_ERROR_CODE = 2  # the code argparse and tyro exit with for a wrong flag

# A full or read-only disk.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Settings = TypeVar("Settings")


def parse(
    settings: type[Settings],
    command: str,
    argv: Sequence[str],
    *,
    default: Settings | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Settings:
    """Parse the command line into `settings`, a dataclass whose docstrings are the help text.

    A wrong value prints what is wrong and exits with code 2; `--help` exits with 0.

    Args:
        settings: the dataclass.
        command: its name, after `food101_fast.`.
        argv: its arguments.
        default: settings whose fields are the defaults; None takes those of the class.
        groups: names of fields by the title of their group in the help. Others come first, before all groups.

    Raises:
        UserError: a flag does not exist, or a value belongs to none.
    """
    from food101_fast.flags import parse_flags  # here, since worker processes import this module and do not need tyro

    return parse_flags(settings, f"python -m food101_fast.{command}", argv, default=default, groups=groups or {})


def exit_with(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run `command` on `argv` (default: of the process). Exit with 0 if it is done, 2 on a UserError, 130 on Ctrl-C."""
    _print_anything()
    try:
        with _notices_as_sentences():
            command([expand_home(argument) for argument in (sys.argv[1:] if argv is None else argv)])
        sys.stdout.flush()  # here, where a full disk can still be reported
    except UserError as error:
        print(wrapped(f"error: {error}", sys.stderr), file=sys.stderr)
        sys.exit(USER_ERROR_CODE)
    except BrokenPipeError:  # the reader of the output has closed it: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (MemoryError, OSError, RuntimeError) as error:
        if (advice := machine_advice(error)) is not None:
            print(f"error: {first_line(error)}; {advice}", file=sys.stderr)
            sys.exit(USER_ERROR_CODE)
        if not isinstance(error, OSError) or error.errno not in _DISK_ERRORS:
            raise
        if error.filename is None:  # of the output, the rest of which would be written at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = error.filename or "the output"
        sentence = f"error: {what} could not be written ({error.strerror}); free space there"
        print(wrapped(sentence, sys.stderr), file=sys.stderr)
        sys.exit(USER_ERROR_CODE)
    except KeyboardInterrupt as interrupt:
        sentence = f"interrupted: {interrupt}" if interrupt.args else "interrupted"
        print(wrapped(sentence, sys.stderr), file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def expand_home(argument: str) -> str:
    """An argument with `~` as the user's folder, where a shell leaves it: quoted, after `=`, or after `folder:`."""
    match = re.fullmatch(r"(--[\w-]+=)?([a-z]+:)?(~/.*|~)", argument, re.DOTALL)
    return argument if match is None else f"{match[1] or ''}{match[2] or ''}{os.path.expanduser(match[3])}"


def _print_anything() -> None:
    """Names of files and classes need not fit the terminal's encoding: what does not is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _notices_as_sentences() -> Iterator[None]:
    """A context in which Python prints a `Notice` without the line of code that it came from."""
    usual = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> str:
        return f"warning: {message}\n" if issubclass(category, Notice) else usual(message, category, *rest, **named)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def main() -> None:
    """The `food101-fast` script: `food101-fast train ...` is `python -m food101_fast.train ...`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: food101-fast COMMAND [--help] ...\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<12}{purpose}")
        sys.exit(0 if arguments else USER_ERROR_CODE)
    if arguments[0] == "--version":
        print(__version__)
        sys.exit(0)
    if arguments[0] not in COMMANDS:
        print(f"error: no command {arguments[0]!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(USER_ERROR_CODE)
    set_up_openmp()
    module = importlib.import_module(f"food101_fast.{arguments[0]}.__main__")
    exit_with(module.main, arguments[1:])
