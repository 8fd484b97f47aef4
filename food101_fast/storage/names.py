r"""File names as text that every encoding takes, and back.

A name on a disk is bytes, mostly UTF-8. Python marks other bytes with lone surrogates, which neither JSON nor a
terminal takes. Here such a byte is spelled `\xe9`. A name that has this spelling by itself gets its backslash spelled,
`\x5c`, so no two names become one.
"""

from __future__ import annotations

import os
import re

_SURROGATE = re.compile("[\udc80-\udcff]")
_SPELLED = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def readable(name: str) -> str:
    """A name from the system, or a path, as valid Unicode. Names that are valid already are nearly all unchanged."""
    if name.isascii() and "\\x" not in name:
        return name
    name = _SPELLED.sub(lambda match: f"\\x5cx{match[1]}", name)
    return _SURROGATE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", name)


def exact(name: str) -> str:
    """The name for the system: the opposite of `readable`."""
    if "\\x" not in name:
        return name
    return _SPELLED.sub(lambda match: os.fsdecode(bytes.fromhex(match[1])), name)
