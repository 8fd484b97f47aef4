"""Recipes in files: TOML that people write, and the `recipe.json` of runs.

A TOML file has the recipe's field names as keys, `learning_rate` or `learning-rate`. Fields that it leaves out have the
defaults, or the values of the recipe that its key `recipe` names. TOML has no null, so "none" is None.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import orjson

from food101_fast.errors import UserError
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.recipes import RECIPES
from food101_fast.runs.run import read_description, read_run

BASE = "recipe"
"""The key of a TOML file that names the recipe to start from."""
_NONE = "none"
_WIDTH = 100
_WORDS = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}


def load_recipe(source: str | Path) -> Recipe:
    """A recipe by its name, or from a file.

    Args:
        source: name of a recipe, such as `"strong"`; a TOML file; the `recipe.json` of a run; or the folder of a run. A
            name comes first: write `./strong` for a file of that name.

    Raises:
        UserError: there is neither such a recipe nor such a file; the file can't be read; or a key or a value in it is
            wrong.
    """
    return _load(source, ())


def _load(source: str | Path, including: Sequence[Path]) -> Recipe:
    """`load_recipe`, of a source that is named in the last of the TOML files `including`."""
    if isinstance(source, str) and source in RECIPES:
        return RECIPES[source]
    path = Path(source)
    where = f"{including[-1]}: " if including else ""
    if including and not path.is_absolute():
        path = including[-1].parent / path
    if path.is_dir():
        return read_run(path).recipe
    if not path.exists():
        from food101_fast.flags import meant  # here and below, since a program that loads a model does not need tyro

        near = meant(str(source), list(RECIPES))
        hint = (
            f"did you mean {near}?" if near else f"choose from {', '.join(RECIPES)}, or give a file or a run's folder"
        )
        raise UserError(f"{where}there is no recipe {str(source)!r}; {hint}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}{path} could not be read ({error.strerror}); give another --recipe") from error
    if path.suffix == RunFolder(path).recipe.suffix:
        return read_description(path).recipe
    if path.resolve() in (one.resolve() for one in including):
        raise UserError(f"{where}{path} is based on itself; name another recipe in its key {BASE}")
    return _from_toml(content, path, including)


def _from_toml(content: bytes, path: Path, including: Sequence[Path]) -> Recipe:
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file ({error}); `train --print-recipe` shows how one looks") from error
    base = document.pop(BASE, "baseline")
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE} should be the name of a recipe in quotes; its fields are keys of the file")
    values = asdict(_load(base, (*including, path)))
    hints = get_type_hints(Recipe, include_extras=True)
    names = _names(document, path)
    for key, value in document.items():
        values[names[key]] = _value(value, hints[names[key]], f"{path}: {key}")
    spelled = {field.name: field.name for field in fields(Recipe)} | {name: key for key, name in names.items()}
    try:
        return Recipe(**values)
    except UserError as error:
        raise UserError(f"{path}: {_in_keys(str(error), spelled)}") from error


def _names(document: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The field of each key of a TOML file.

    Raises:
        UserError: a key is not a field, or two are the same.
    """
    from food101_fast.flags import meant

    known = {_flag(field.name): field.name for field in fields(Recipe)}
    found: dict[str, str] = {}
    unknown = []
    for key in document:
        flag = _flag(key)
        if flag not in known:
            likely = meant(flag, list(known))
            unknown.append(key if likely is None else f"{key} (did you mean {_as_spelled(known[likely], key)}?)")
        elif known[flag] in found.values():
            raise UserError(f"{path} has the key {key} twice, in two spellings; remove one of them")
        else:
            found[key] = known[flag]
    if unknown:
        what = "has an unknown key" if len(unknown) == 1 else "has unknown keys"
        raise UserError(f"{path} {what}: {', '.join(unknown)}; `train --print-recipe` lists all")
    return found


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _as_spelled(name: str, key: str) -> str:
    """A field's name with dashes if `key` has some."""
    return name.replace("_", "-") if "-" in key else name


def _value(value: Any, hint: Any, where: str) -> Any:
    """A value of a TOML file as that of its field.

    Raises:
        UserError: its type is wrong.
    """
    may_be_none = type(None) in get_args(hint)
    if may_be_none and isinstance(value, str) and value.lower() == _NONE:
        return None
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        wanted = [_expected(choice) for choice in _choices(hint) if choice is not type(None)]
        wanted += [f'"{_NONE}"'] if may_be_none else []
        given = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else value
        raise UserError(f"{where} = {given} should be {' or '.join(wanted)}") from error


def _choices(hint: Any) -> Sequence[Any]:
    """The types of a union, or the one type."""
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    return (hint,) if get_origin(hint) in (None, Literal, list, tuple) else get_args(hint)


def _expected(hint: Any) -> str:
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(hint))
    return _WORDS.get(hint, "a list" if get_origin(hint) in (list, tuple) else str(hint))


def _in_keys(message: str, spelled: Mapping[str, str]) -> str:
    """An error of `Recipe` with keys where it has flags."""
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda found: spelled.get(found[1].replace("-", "_"), found[0]), message)


def recipe_toml(recipe: Recipe) -> str:
    """A recipe as a TOML file: each field, under a comment that says what it does. `load_recipe` reads it back."""
    from food101_fast.flags import helps_of

    helps = helps_of(Recipe)
    blocks = [
        _comment(
            "A recipe of food101_fast: train --recipe FILE. Fields that are left out have their defaults, or the "
            f'values of another recipe: {BASE} = "strong". "{_NONE}" switches a field off.'
        )
    ]
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        blocks.append(f"{_comment(_first_sentence(helps[field.name]))}{field.name} = {_literal(value)}\n")
    return "\n".join(blocks)


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0]


def _literal(value: Any) -> str:
    """A value in TOML, which writes texts, numbers and lists nearly as JSON does."""
    if value is None:
        return f'"{_NONE}"'
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
