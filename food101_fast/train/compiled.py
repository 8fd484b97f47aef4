"""torch.compile, and what happens where it can't compile: slim containers have no C++ compiler or Python headers.

torch compiles at the first call, so that is when it fails, with hundreds of lines. Here that becomes one sentence: a
warning where the recipe leaves compiling to the program, and an error where it asks for it.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from food101_fast.errors import Notice, UserError
from food101_fast.resources import first_line

# How many graphs torch.compile may keep of one function: for each image size, each set of frozen layers, validation.
_MOST_GRAPHS = 64
_LONGEST_REASON = 200
_OFF = "use --compile off"
# What torch, Triton and compilers say, what that means, and what helps.
_KNOWN = (
    (r"Python\.h", "Python's headers are missing", "install them (`apt-get install python3-dev`)"),
    (
        r"(?i)InvalidCxxCompiler|failed to find c\+* ?compiler|no working c\+\+ compiler",
        "no C++ compiler was found",
        "install one (`apt-get install g++`), or set CXX",
    ),
    (r"(?i)working triton installation|TritonMissing", "Triton is missing", "install it (`pip install triton`)"),
    (
        r"failed to map segment",
        "compiled code can't be loaded from its folder",
        "set FOOD101_FAST_CACHE to a folder whose disk is not mounted with noexec",
    ),
)


class Compiler:
    """Compiles the functions of a step until that fails once; then they run as they are.

    Args:
        required: whether the user has asked for compiling.
        warns: whether this process prints the warning.

    Attributes:
        works: whether nothing has failed yet.
    """

    def __init__(self, *, required: bool, warns: bool = True) -> None:
        self._required = required
        self._warns = warns
        self.works = True

    def __call__(self, module: nn.Module, *, fullgraph: bool = False, mode: str = "default") -> Callable[..., Any]:
        """The module as a function that is compiled at its first call, once for each shape of its input.

        The function raises UserError if compiling fails and is required.
        """
        if not self.works:
            return module
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
        try:
            compiled = torch.compile(module, fullgraph=fullgraph, dynamic=False, mode=mode)
        except RuntimeError as error:  # this version of Python, or this system, is not supported
            self._failed(error)
            return module

        def call(*arguments: Any, **named: Any) -> Any:
            if not self.works:
                return module(*arguments, **named)
            try:
                return compiled(*arguments, **named)
            except Exception as error:
                if not _is_compile_error(error):
                    raise
                self._failed(error)
            return module(*arguments, **named)

        return call

    @contextmanager
    def backward(self) -> Iterator[None]:
        """A context for the backward pass of a compiled function, whose graph may be compiled only then.

        Raises:
            UserError: that failed. The pass can't be repeated without the compiler, since gradients may be incomplete.
        """
        try:
            yield
        except Exception as error:
            if not _is_compile_error(error):
                raise
            raise UserError(f"torch.compile failed in the backward pass ({_reason(error)[0]}); {_OFF}") from error

    def _failed(self, error: Exception) -> None:
        reason, advice = _reason(error)
        if self._required:
            raise UserError(f"--compile on: torch.compile failed ({reason}); {advice}, or {_OFF}") from error
        self.works = False
        if self._warns:
            warnings.warn(
                f"torch.compile failed ({reason}), so nothing is compiled and steps may be slower; {advice}, or {_OFF}",
                Notice,
                stacklevel=3,
            )


def _is_compile_error(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # here, since only runs that compile need it

    # Triton compiles the code that starts a kernel when it starts it for the first time, outside of torch's compiler.
    by_triton = isinstance(error, RuntimeError | OSError | ImportError) and _known(error) is not None
    return isinstance(error, TorchDynamoException | subprocess.CalledProcessError) or by_triton


def _known(error: Exception) -> tuple[str, str] | None:
    text = f"{type(error).__name__}: {error}\n{getattr(error, 'stderr', '')}"
    return next((rest for pattern, *rest in _KNOWN if re.search(pattern, text)), None)  # type: ignore[return-value]


def _reason(error: Exception) -> tuple[str, str]:
    """Why compiling failed, and what to do, beside leaving it out."""
    known = _known(error)
    if known is not None:
        return known[0], known[1]
    return first_line(error)[:_LONGEST_REASON], "mend that"
