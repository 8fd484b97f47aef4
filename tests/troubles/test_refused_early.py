"""`train` refuses what no shards could mend before it opens them, which may take minutes behind a URL.

Elsewhere a wrong name is refused only after the data are downloaded: huggingface/datasets#5523.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from food101_fast.shards import ShardSet

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model resnet5000", "there is no classification model 'resnet5000'"),
        ("--weights gone.ckpt", "there is no file of weights gone.ckpt; give a path that exists"),
        ("--batch-size 33 --accumulate 2", "--batch-size 33 is the batch of all ranks together"),
        ("--run {run}", "already has a run; continue it with --resume, or give another --run"),
        ("--run {full}", "is not empty; give another --run"),
        ("--resume --run {full}", "is not empty; give another --run"),
        ("--resume --run {run} --seed 1", "can't be resumed with --seed 1 (it was trained with 0); give the same"),
    ],
)
def test_before_shards_are_opened(
    flags: str, message: str, tiny_run: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> ShardSet:
        raise AssertionError("the shards were opened")

    monkeypatch.setattr(ShardSet, "open", opened)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    given = flags.format(run=tiny_run, full=tmp_path / "full").split()
    where = [] if "--run" in given else ["--run", str(tmp_path / "new")]
    code, out, err = command("train", "--shards", "s3://far/away", *where, *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "new").exists()


def test_another_rank_does_not_look_at_the_folder(
    tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main rank may have written into it already."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command("train", "--shards", "nowhere", "--run", str(tiny_run))
    assert code == 2
    assert "there is no shards folder nowhere" in err
