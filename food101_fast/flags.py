"""The flags of a command, made from its settings: in groups, each help text one paragraph, a wrong name corrected.

tyro shows a nested dataclass as a group. Settings are nested as programs use them, and their help texts are wrapped as
source code is. So the command line is parsed into a dataclass that is nested as the groups are, with joined help texts,
and the settings are made from the result.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from food101_fast.errors import UserError

Groups = Mapping[str, Sequence[str]]

Settings = TypeVar("Settings")

_INDENT = "  "
_NEAR = 0.75  # two names are one that was misspelled, on difflib's scale

# Flags of other training scripts (PyTorch's references, timm, Ultralytics), and ours: the first that a command has.
_SYNONYMS = {
    "--lr": ("--learning-rate",),
    "--bs": ("--batch-size",),
    "--batch": ("--batch-size",),
    "-b": ("--batch-size",),
    "--wd": ("--weight-decay",),
    "--arch": ("--model",),
    "-a": ("--model",),
    "--net": ("--model",),
    "--backbone": ("--model",),
    "--pretrained": ("--weights",),
    "--data": ("--shards", "--source"),
    "--data-dir": ("--shards", "--source"),
    "--data-path": ("--shards", "--source"),
    "--dataset": ("--shards", "--source"),
    "-d": ("--shards", "--source"),
    "--output": ("--out", "--run"),
    "--output-dir": ("--out", "--run"),
    "-o": ("--out", "--run"),
    "--name": ("--run",),
    "--workers": ("--threads",),
    "--num-workers": ("--workers", "--threads"),
    "-j": ("--workers", "--threads"),
    "--opt": ("--optimizer",),
    "--sched": ("--schedule",),
    "--lr-scheduler": ("--schedule",),
    "--img-size": ("--image-size", "--size"),
    "--imgsz": ("--image-size", "--size"),
    "--input-size": ("--image-size", "--size"),
    "--image-size": ("--size",),
    "--aa": ("--preset",),
    "--augment": ("--preset",),
    "--smoothing": ("--label-smoothing",),
    "--clip-grad": ("--clip-norm",),
    "--model-ema": ("--ema-decay",),
    "--grad-accum-steps": ("--accumulate",),
    "--gradient-accumulation-steps": ("--accumulate",),
    "-e": ("--epochs",),
    "--gpu": ("--device",),
    "--topk": ("--top-k",),
    "-k": ("--top-k",),
    "--label": ("--label-column",),
    "--image": ("--image-column",),
}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A field of the settings, or of a dataclass in them, that the command line can set."""

    name: str
    """Name of the field; no two flags have the same."""
    path: tuple[str, ...]
    """Names of the fields from the settings to this one."""
    hint: Any
    """Its type, with annotations."""
    help: str | None
    """What it does."""
    default: Any
    """Its value without the flag; tyro.MISSING if the flag is required."""

    @property
    def spelling(self) -> str:
        """The flag as it is typed; a switch that is on by default can only be turned off."""
        return ("--no-" if self.default is True else "--") + self.name.replace("_", "-")

    @property
    def positional(self) -> bool:
        """Whether it is an argument without a name."""
        return tyro.conf.Positional in getattr(self.hint, "__metadata__", ())


def flags_of(kind: Any, default: Any = None, path: tuple[str, ...] = ()) -> list[Flag]:
    """The flags of a dataclass, those of nested dataclasses among them.

    Args:
        kind: the dataclass.
        default: one whose fields are the defaults; None takes those of the class.
        path: names of the fields that lead to it.
    """
    hints, helps = get_type_hints(kind, include_extras=True), helps_of(kind)
    found = []
    for field in dataclasses.fields(kind):
        value = _default(field) if default is None else getattr(default, field.name)
        hint, below = hints[field.name], (*path, field.name)
        if dataclasses.is_dataclass(hint):
            found += flags_of(hint, None if value is tyro.MISSING else value, below)
        else:
            found.append(Flag(name=field.name, path=below, hint=hint, help=helps.get(field.name), default=value))
    return found


def parse_flags(
    kind: type[Settings], prog: str, argv: Sequence[str], *, default: Settings | None, groups: Groups
) -> Settings:
    """Parse `argv` into settings.

    Args:
        kind: the settings, a dataclass whose docstrings are the help texts.
        prog: the command's name in its help.
        argv: its arguments.
        default: settings whose fields are the defaults; None takes those of the class.
        groups: names of fields by the title of their group. Others come first, before all groups.

    Raises:
        UserError: a flag does not exist, or a value belongs to none.
    """
    flags = flags_of(kind, default)
    _check_names(flags, prog, argv)
    parsed: Any = tyro.cli(
        _form(flags, groups),
        prog=prog,
        description=_description(kind),
        args=argv,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    titles = {name: title for title, names in groups.items() for name in names}
    values = {}
    for flag in flags:
        group = getattr(parsed, _group(titles[flag.name])) if flag.name in titles else parsed
        values[flag.path] = getattr(group, flag.name)
    return _settings(kind, values)


def _form(flags: Sequence[Flag], groups: Groups) -> type:
    """A dataclass with the same flags, in which each group is a dataclass."""
    by_name = {flag.name: _form_field(flag) for flag in flags}
    form = [field for name, field in by_name.items() if not any(name in names for names in groups.values())]
    for title, names in groups.items():
        group: Any = dataclasses.make_dataclass(title, [by_name[name] for name in names], kw_only=True)
        form.append((_group(title), Annotated[group, tyro.conf.arg(name=title)], dataclasses.field()))
    return dataclasses.make_dataclass("Form", form, kw_only=True)


def _group(title: str) -> str:
    """The field of a group; a flag may have the group's title as its name."""
    return f"{title}_group"


def _form_field(flag: Flag) -> tuple[str, Any, Any]:
    shown = tyro.conf.arg(
        help=flag.help, metavar=flag.name.upper() if flag.positional else None, help_behavior_hint=_hint(flag)
    )
    field = dataclasses.field() if flag.default is tyro.MISSING else dataclasses.field(default=flag.default)
    return flag.name, Annotated[flag.hint, shown], field


def _hint(flag: Flag) -> str | None:
    """What the help says of the default; None leaves it to tyro."""
    if flag.default is tyro.MISSING:
        return "(required)"
    if flag.default is True:
        return "(on by default)"
    return "" if flag.default is None and "default" in (flag.help or "").lower() else None


def _settings(kind: type[Settings], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Settings:
    """The settings, from the value of each flag by its path."""
    hints = get_type_hints(kind)
    made = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        below = (*path, field.name)
        made[field.name] = values[below] if below in values else _settings(hints[field.name], values, below)
    return kind(**made)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def helps_of(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, and of those that it inherits from, as one paragraph."""
    found = {}
    for parent in reversed(kind.__mro__[:-1]):
        for entry in docstring_parser.parse_from_object(parent).params:
            found[entry.arg_name] = " ".join((entry.description or "").split())
    return found


def _description(kind: type) -> str:
    """The docstring of the settings, wrapped to the terminal; tyro joins lines that are not indented."""
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(" ".join(paragraph.split()), width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        for paragraph in (kind.__doc__ or "").split("\n\n")
    )


def _check_names(flags: Sequence[Flag], prog: str, argv: Sequence[str]) -> None:
    """Refuse flags that do not exist, and values without one. tyro would too, but it knows no flags of other programs.

    Raises:
        UserError: with the flag that was meant, if one is near.
    """
    if any(not _is_plain(flag) for flag in flags):
        return  # a subcommand has flags of its own
    known = [flag.spelling for flag in flags if not flag.positional]
    most = {flag.spelling: _most_values(flag) for flag in flags}
    may_follow = math.inf if any(flag.positional for flag in flags) else 0.0
    before = ""
    for argument in argv:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        name = name.replace("_", "-") if name.startswith("--") else name
        if not name.startswith("-") or not name.strip("-")[:1].isalpha() or name.startswith("--tyro-"):
            if may_follow < 1:
                raise UserError(_unexpected(argument, before, flags, prog, argv))
            may_follow -= 1
            continue
        if name not in (*known, "--help", "-h"):
            likely = meant(name, known)
            hint = f"`{prog} --help` lists all flags" if likely is None else f"did you mean {likely}?"
            raise UserError(f"unknown flag {name}; {hint}")
        if not any(flag.positional for flag in flags):
            before, may_follow = name, 0.0 if "=" in argument else most.get(name, 0.0)


def meant(name: str, known: Sequence[str]) -> str | None:
    """The flag of `known` that was probably meant, by the names of other programs or by its spelling; None if none is.

    Args:
        name: as it was typed, with its dashes.
        known: flags that exist, with their dashes.
    """
    likely = [flag for flag in _SYNONYMS.get(name, ()) if flag in known]
    likely = likely or difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
    return likely[0] if likely else None


def _most_values(flag: Flag) -> float:
    """How many values may follow a flag."""
    hint = _bare(flag.hint)
    if hint is bool:
        return 0
    choices = [_bare(choice) for choice in get_args(hint)] if get_origin(hint) in (Union, UnionType) else [hint]
    return math.inf if any(get_origin(choice) in (tuple, list) for choice in choices) else 1


def _unexpected(argument: str, before: str, flags: Sequence[Flag], prog: str, argv: Sequence[str]) -> str:
    """The sentence about a value that belongs to no flag.

    Args:
        argument: the value.
        before: the last flag before it; empty if it is the first argument.
        flags: of the command.
        prog: the command's name.
        argv: all arguments.
    """
    if any(flag.spelling == before and not _most_values(flag) for flag in flags):
        return f"unexpected {argument!r}: {before} takes no value; leave it out"
    given = {one.partition("=")[0].replace("_", "-") for one in argv}
    required = [flag.spelling for flag in flags if flag.default is tyro.MISSING]
    known = {flag.spelling for flag in flags}
    # What a command reads comes first to a user's mind, though it may have a default.
    likely = [name for name in ("--source", *required, "--run") if name in known and name not in given]
    advice = f"such as {likely[0]} {argument}" if likely else f"and `{prog} --help` lists them"
    return f"unexpected {argument!r}; flags start with --, {advice}"


def _is_plain(flag: Flag) -> bool:
    """Whether the flag has a value, and not a choice of subcommands."""
    hint = flag.hint
    while get_origin(hint) is Annotated:
        hint = hint.__origin__
    return not any(dataclasses.is_dataclass(_bare(choice)) for choice in getattr(hint, "__args__", ()))


def _bare(hint: Any) -> Any:
    return hint.__origin__ if get_origin(hint) is Annotated else hint
