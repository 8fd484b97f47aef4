"""Tables with URLs of images, on servers that answer, fail or lose files.

Seen in: see test_tables.py.
"""

from __future__ import annotations

import functools
import http.server
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import orjson
import pytest

from food101_fast.errors import UserError
from food101_fast.images import RejectedError
from food101_fast.prepare.sources import table as table_module
from tests.conftest import serving
from tests.troubles.tables import EXPECTED, opened, photos, prepared, rows_of, write


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder over HTTP.

    Answers with an error as often as `failures` says for a path, and knows it only as often as `lives` says.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.failures: Counter[str] = Counter()
        self.lives: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.failures[self.path] > 0:
            self.server.failures[self.path] -= 1
            self.send_error(503)
        elif self.server.lives.get(self.path, 1) == 0:
            self.send_error(404)
        else:
            if self.path in self.server.lives:
                self.server.lives[self.path] -= 1
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    with serving(server):
        yield server


def test_urls_are_downloaded(tmp_path: Path, server: Server) -> None:
    names = photos(tmp_path)
    os.rename(tmp_path / names[0], tmp_path / "img" / "0 é.jpg")
    urls = [f"{server.url}/img/0 é.jpg", f"{server.url}/{names[1]}?size=full/1"]
    urls += [f"{server.url}/{name}" for name in names[2:11]] + [names[11]]  # and one on the disk
    table = write(tmp_path / "t.csv", rows_of(urls, file="url"))
    assert prepared(tmp_path / "out", table) == EXPECTED - Counter(["apple_pie/0"]) + Counter(["apple_pie/0_e"])


def test_a_table_may_be_behind_a_url(tmp_path: Path, server: Server) -> None:
    write(tmp_path / "t.jsonl", rows_of(photos(tmp_path)))
    assert prepared(tmp_path / "out", f"{server.url}/t.jsonl") == EXPECTED


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_dead_url_is_listed(tmp_path: Path, server: Server, duplicates: str) -> None:
    urls = [f"{server.url}/{name}" for name in photos(tmp_path, 13)]
    os.remove(tmp_path / "img" / "12.jpg")
    table = write(tmp_path / "t.csv", rows_of(urls))
    assert prepared(tmp_path / "out", table, duplicates=duplicates, fractions=(1, 0, 0)) == EXPECTED
    rejects = [orjson.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [(reject["reason"], reject["file"]) for reject in rejects] == [("missing-file", urls[12])]
    assert orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())["read"] == 13


def test_a_url_that_goes_away_meanwhile_is_an_error(tmp_path: Path, server: Server) -> None:
    urls = [f"{server.url}/{name}" for name in photos(tmp_path)]
    server.lives["/img/5.jpg"] = 1
    with pytest.raises(UserError, match="pizza/5 of the source changed while prepare was reading it"):
        prepared(tmp_path / "out", write(tmp_path / "t.csv", rows_of(urls)))


def test_a_table_in_a_bucket_names_files_there(tmp_path: Path) -> None:
    bucket = fsspec.filesystem("memory")
    for name in photos(tmp_path, 3):
        bucket.pipe(f"/tables/{name}", (tmp_path / name).read_bytes())
    rows = rows_of(["img/0.jpg", "memory://tables/img/1.jpg", str(tmp_path / "img" / "2.jpg"), "img/gone.jpg"])
    bucket.pipe("/tables/t.csv", write(tmp_path / "t.csv", rows).read_bytes())
    source = opened("memory://tables/t.csv")
    for position in range(3):
        assert source.read(position) == (tmp_path / "img" / f"{position}.jpg").read_bytes()
    with pytest.raises(RejectedError, match=r"missing-file: nothing is at memory://tables/img/gone\.jpg"):
        source.read(3)


def test_a_server_that_fails_is_asked_again(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "_PAUSE_SECONDS", 0)
    urls = [f"{server.url}/{name}" for name in photos(tmp_path, 2)]
    source = opened(write(tmp_path / "t.csv", rows_of(urls)))
    server.failures["/img/0.jpg"] = 2
    assert source.read(0) == (tmp_path / "img" / "0.jpg").read_bytes()
    server.failures["/img/1.jpg"] = 3
    with pytest.raises(UserError, match=r"img/1\.jpg could not be downloaded in 3 attempts .*503"):
        source.read(1)


def test_an_unknown_protocol_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nosuch://host can't be opened"):
        opened(write(tmp_path / "t.csv", rows_of(["nosuch://host/0.jpg"])))
