"""A planted slowdown is found where it is, and neither noise nor a slower machine is taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from food101_fast.bench.compare import SavedResult, compare, read_result
from food101_fast.bench.measure import measure
from food101_fast.bench.results import RESULT_VERSION
from food101_fast.documents import convert

STAGES = ("read", "gather", "checksum", "loader", "transforms", "forward", "step from shards")
NOISE = 0.03
Command = Callable[..., tuple[int, str, str]]


def written(seed: int, *, slower: str | None = None, machine: float = 1.0, repetitions: int = 7) -> Any:
    """A result as JSON, measured on a clock that noisy works move: each work has noise, and the machine drifts.

    Args:
        seed: of the noise.
        slower: stage that takes a quarter longer, so that its rate is a fifth lower.
        machine: speed of the whole machine.
        repetitions: that count.
    """
    rng = np.random.default_rng(seed)
    now = [0.0]

    def work(name: str) -> Callable[[], float]:
        def done() -> float:
            drift = machine * (1 + 0.3 * math.sin(now[0] / 7))  # neighbours come and go
            seconds = 0.1 / drift * (1 + NOISE * float(rng.standard_normal()))
            now[0] += seconds * (1.25 if name == slower else 1.0)
            return 10.0

        return done

    names = (*STAGES, "memory copy", "matrix product")
    works = {name: work(name) for name in names}
    rates = measure(works, seconds=0.3, repetitions=repetitions, device=torch.device("cpu"), clock=lambda: now[0])
    recipe = {"model": "a", "batch_size": 64}
    return {
        "version": RESULT_VERSION,
        "provenance": {"machine": {"device": "cpu"}, "versions": {"torch": "1"}, "busy": False},
        "settings": {"recipe": recipe},
        "loading": {"encoding": "raw", "stored_size": 64, "threads": 1, "residence": "stream", "verify": "always"},
        "ceilings": {name: {"repetitions": rates[name]} for name in names if name not in STAGES},
        "stages": {
            name: {
                "images_per_second": float(np.median(rates[name])),
                "repetitions": rates[name],
                "ceiling": "matrix product",
            }
            for name in STAGES
        },
    }


def result(seed: int, *, slower: str | None = None, machine: float = 1.0, repetitions: int = 7) -> SavedResult:
    """The same, read back."""
    document = written(seed, slower=slower, machine=machine, repetitions=repetitions)
    return convert(document, SavedResult, where="", advice="")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_a_fifth_slower_is_named(stage: str) -> None:
    changes = compare(result(1), result(2, slower=stage))
    assert [change.stage for change in changes if change.changed] == [stage]
    (found,) = (change for change in changes if change.changed)
    assert found.ratio == pytest.approx(0.8, abs=0.05)
    back = compare(result(2, slower=stage), result(1))
    assert [(change.stage, change.ratio > 1) for change in back if change.changed] == [(stage, True)]


def test_two_results_of_one_program_hardly_ever_differ() -> None:
    false_alarms = sum(
        any(change.changed for change in compare(result(2 * seed), result(2 * seed + 1))) for seed in range(100)
    )
    assert false_alarms <= 10  # five are expected of a level of 5 %


def test_a_machine_that_is_slower_changes_nothing() -> None:
    changes = compare(result(3), result(4, machine=0.6))
    assert not any(change.changed for change in changes)
    assert changes[0].after < 0.8 * changes[0].before


def test_few_repetitions_tell_nothing_apart() -> None:
    assert not any(one.changed for one in compare(result(1, repetitions=4), result(2, slower="read", repetitions=4)))


def test_the_command_names_what_changed(tmp_path: Path, command: Command) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, one in zip(paths, (written(1), written(2), written(2, slower="forward")), strict=True):
        path.write_bytes(orjson.dumps(one))
    code, out, _ = command("bench", "compare", str(paths[0]), str(paths[1]))
    assert code == 0
    assert "no change beyond the spread" in out
    code, out, _ = command("bench", "compare", str(paths[0]), str(paths[2]))
    assert code == 1
    assert "changed: forward (-" in out


def test_what_was_not_measured_alike_is_said(tmp_path: Path, command: Command) -> None:
    one, two = written(1), written(2)
    two["settings"]["recipe"]["batch_size"] = 128
    two["loading"]["threads"] = 2
    two["provenance"]["busy"] = True
    for name, document in (("a.json", one), ("b.json", two)):
        (tmp_path / name).write_bytes(orjson.dumps(document))
    _, out, _ = command("bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    for note in ("batch_size: 64 and 128", "threads: 1 and 2", "the second result was measured on a busy machine"):
        assert note in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"version": 2, "stages": {"read": {}}}', "give files that bench --json wrote"),
        (b'{"version": 1, "stages": {}, "ceilings": {}}', "has version 1"),
    ],
)
def test_a_file_that_is_no_result_is_one_sentence(
    tmp_path: Path, command: Command, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    code, _, err = command("bench", "compare", str(path), str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_results_of_earlier_commits_are_read() -> None:
    saved = read_result(Path(__file__).parents[2] / "benchmarks" / "results" / "stages-cpu.json")
    assert saved.settings.recipe["model"] == "mobilenet_v2"
    assert not any(change.changed for change in compare(saved, saved))
