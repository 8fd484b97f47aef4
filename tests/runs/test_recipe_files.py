"""Recipes in files: what is written is read back, any spelling of a key is one field, and mistakes are named."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.runs import RECIPES, Recipe, load_recipe
from food101_fast.runs.recipe_files import recipe_toml

Command = Callable[..., tuple[int, str, str]]

# For each kind of value some that a field may have; together they are valid in any combination.
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(st.characters(codec="utf-8"), min_size=1),
        "weights": st.sampled_from(["none", 'a "quoted" \\ path', "tab\tand\x7f", "é\u2028\U0001f35c"]),
        "image_size": st.integers(32, 1000),
        "start_size": st.sampled_from([None, 32]),
        "label_smoothing": st.floats(0, 1, exclude_max=True),
        "batch_size": st.integers(2, 10_000),
        "learning_rate": st.floats(0, exclude_min=True, allow_infinity=False),
        "clip_norm": st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
        "warmup_epochs": st.sampled_from([0, 1, 0.5]),
        "patience": st.none() | st.integers(1, 10**6),
        "schedule": st.sampled_from(["exponential", "cosine", "constant"]),
        "tf32": st.booleans(),
        "seed": st.integers(0, 2**62),
    },
)


@given(st.sampled_from([recipe for recipe in RECIPES.values() if recipe.method == "finetune"]), CHANGES)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, base: Recipe, changes: dict[str, Any]
) -> None:
    start = {"start_size": None} | changes
    recipe = dataclasses.replace(base, **start)
    path = tmp_path_factory.getbasetemp() / "read back.toml"
    path.write_text(recipe_toml(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_is_written_under_a_comment(name: str) -> None:
    lines = recipe_toml(RECIPES[name]).splitlines()
    assert list(tomllib.loads("\n".join(lines))) == [field.name for field in dataclasses.fields(Recipe)]
    for number, line in enumerate(lines):
        assert line.startswith("#") or not line or lines[number - 1].startswith("# ")
        assert len(line) <= 100
    assert "# Stop after this many epochs without a better validation accuracy." in lines


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_changes_the_recipe_that_it_names(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'recipe = "strong" # ours\nimage-size = 192\nlearning_rate = 1\npatience = 4')
    expected = dataclasses.replace(RECIPES["strong"], image_size=192, learning_rate=1.0, patience=4)
    assert load_recipe(path) == load_recipe(str(path)) == expected
    assert load_recipe(write(tmp_path / "empty.toml", "")) == RECIPES["baseline"]


def test_a_base_in_a_file_is_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases" / "ours.toml", 'recipe = "demo"\nseed = 3\nepochs = 9')
    path = write(tmp_path / "mine.toml", 'recipe = "bases/ours.toml"\nepochs = 2')
    monkeypatch.chdir(tmp_path / "bases")
    assert load_recipe(path) == dataclasses.replace(RECIPES["demo"], seed=3, epochs=2)


def test_none_is_a_text(tmp_path: Path) -> None:
    """For a field that may be None; the weights `none` are a name."""
    recipe = load_recipe(write(tmp_path / "a.toml", 'patience = "none"\nclip_norm = "None"\nweights = "none"'))
    assert (recipe.patience, recipe.clip_norm, recipe.weights) == (None, None, "none")


def test_a_runs_recipe_is_found_by_folder_and_by_file(tiny_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_run)
    assert recipe.model == "shufflenet_v2_x0_5"
    assert load_recipe(str(tiny_run / "recipe.json")) == recipe
    copy = tmp_path / "copied.json"
    copy.write_bytes((tiny_run / "recipe.json").read_bytes())
    assert load_recipe(copy) == recipe
    assert load_recipe(write(tmp_path / "on.toml", f"recipe = {json.dumps(str(tiny_run))}\nseed = 5")).seed == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1", "{path} has an unknown key: lr (did you mean learning_rate?); `train --print-recipe` lists all"),
        ("batch-sise = 1", "{path} has an unknown key: batch-sise (did you mean batch-size?); `train"),
        ("wd = 1\nqux = 2", "{path} has unknown keys: wd (did you mean weight_decay?), qux; `train"),
        ("[training]\nepochs = 3", "{path} has an unknown key: training; `train"),
        ("epochs = 0", "{path}: epochs 0 should be at least 1"),
        ("warmup-epochs = 9", "{path}: warmup-epochs 9.0 should be at most epochs 7; give both"),
        ('epochs = "5"', '{path}: epochs = "5" should be a whole number'),
        ("epochs = true", "{path}: epochs = true should be a whole number"),
        ("epochs = 1.5", "{path}: epochs = 1.5 should be a whole number"),
        ('patience = "x"', '{path}: patience = "x" should be a whole number or "none"'),
        ("clip-norm = [1]", '{path}: clip-norm = [1] should be a number or "none"'),
        ("learning_rate = nan", "{path}: learning_rate nan should be above 0"),
        ('optimizer = "lamb"', '{path}: optimizer = "lamb" should be one of "adam", "adamw", "sgd"'),
        ("tf32 = 1", "{path}: tf32 = 1 should be true or false"),
        ("seed = 1\nimage-size = 64\nimage_size = 64", "{path} has the key image_size twice, in two spellings"),
        ("epochs = 3\nepochs = 3", "{path} is not a TOML file (Cannot overwrite a value"),
        ("epochs: 3", "{path} is not a TOML file ("),
        ('recipe = "stong"', "{path}: there is no recipe 'stong'; did you mean strong?"),
        ("recipe = 3", "{path}: recipe should be the name of a recipe in quotes"),
        ('recipe = "mine.toml"', "{path}: {path} is based on itself; name another recipe"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_and_key(text: str, message: str, tmp_path: Path, command: Command) -> None:
    path = write(tmp_path / "mine.toml", text)
    code, out, err = command("train", "--print-recipe", "--recipe", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: " + message.format(path=path))


def test_other_files_are_one_sentence(tmp_path: Path, command: Command) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.json").write_text('{"recipe": 3}')
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("bytes.toml", "is not a TOML file ("),
        ("broken.json", "is damaged ("),
        ("folder", "has no run (it has no recipe.json)"),
        ("gone.toml", "gone.toml'; choose from baseline, strong"),
    ):
        code, _, err = command("train", "--print-recipe", "--recipe", str(tmp_path / name))
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_print_recipe_applies_flags_and_needs_nothing_else(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "printed.toml"
    flags = ("--image-size", "96", "--patience", "None", "--no-tf32", "--clip-norm", "2")
    code, out, err = command("train", "--print-recipe", "--recipe", "demo", *flags)
    assert (code, err) == (0, "")
    path.write_text(out)
    changes = {"image_size": 96, "patience": None, "tf32": False, "clip_norm": 2.0}
    assert load_recipe(path) == dataclasses.replace(RECIPES["demo"], **changes)  # type: ignore[arg-type]
    again = command("train", "--print-recipe", "--recipe", str(path))
    assert again == (0, out, "")
    assert command("train", "--print-recipe=1")[0] == 2


def test_flags_are_on_top_of_a_file(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    path = write(
        tmp_path / "mine.toml",
        'recipe = "demo"\nmodel = "shufflenet_v2_x0_5"\nimage_size = 32\nbatch_size = 16\nepochs = 2\nseed = 4',
    )
    run = tmp_path / "run"
    arguments = ("--shards", str(tiny_path), "--run", str(run), "--device", "cpu")
    assert command("train", *arguments, "--recipe", str(path), "--epochs", "1")[0] == 0
    assert load_recipe(run) == dataclasses.replace(load_recipe(path), epochs=1)
