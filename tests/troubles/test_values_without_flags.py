"""Values that belong to no flag: `train shards run` in one sentence.

Seen when new users followed the docs: all errors were one sentence but this one, which was a box of the parser's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train work/s1 work/w1", "unexpected 'work/s1'; flags start with --, such as --shards work/s1"),
        ("train --shards s w1", "unexpected 'w1'; flags start with --, such as --run w1"),
        ("train --shards=s w1 --epochs 3", "unexpected 'w1'; flags start with --, such as --run w1"),
        (
            "train --shards s --run r --epochs 3 5",
            "unexpected '5'; flags start with --, and `python -m food101_fast.train --help` lists them",
        ),
        ("train --auto-batch yes --shards s --run r", "unexpected 'yes': --auto-batch takes no value; leave it out"),
        ("train --no-tf32 -1 --shards s --run r", "unexpected '-1': --no-tf32 takes no value; leave it out"),
        ("prepare photos", "unexpected 'photos'; flags start with --, such as --source photos"),
        ("prepare --label category", "unknown flag --label; did you mean --label-column?"),
        ("prepare --image file", "unknown flag --image; did you mean --image-column?"),
        ("evaluate runs/a", "unexpected 'runs/a'; flags start with --, such as --run runs/a"),
        ("export runs/a", "unexpected 'runs/a'; flags start with --, such as --run runs/a"),
        ("report runs/a", "unexpected 'runs/a'; flags start with --, such as --run runs/a"),
    ],
)
def test_a_value_without_a_flag_is_one_sentence(arguments: str, message: str, command: Command) -> None:
    assert command(*arguments.split()) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "reached"),
    [
        ("evaluate --run nowhere gone", "nowhere has no run"),
        ("report --compare nowhere gone", "nowhere has no run"),
        ("prepare --source folder:nowhere --out o --fractions 0.8 0.1 0.1", "nowhere"),
        ("predict --run nowhere a.jpg b.jpg", "nowhere has no run"),
        ("train --shards nowhere --run r --learning_rate 0.1", "there is no shards folder nowhere"),
    ],
)
def test_flags_with_several_values_keep_them(arguments: str, reached: str, command: Command) -> None:
    code, _, err = command(*arguments.split())
    assert (code, "unexpected" in err) == (2, False)
    assert reached in err
