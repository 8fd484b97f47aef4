"""Weights behind paths, folders and URLs: found, downloaded once, and compared with their hashes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models import build_model, load_file
from food101_fast.models.locations import find_weights, is_location
from tests.conftest import contents, flip, serving
from tests.models.test_weights import Small, saved


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder over HTTP; of files whose name begins with `cut` it sends only half."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/cut.pth":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(bytes(1000))
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    server = Server(tmp_path / "www")
    with serving(server):
        yield server


def files_in(cache: Path) -> list[str]:
    return [name for name, content in contents(cache).items() if content != b"a folder"]


def test_a_url_is_downloaded_once(tmp_path: Path, cache: Path, server: Server) -> None:
    state = Small().state_dict()
    (tmp_path / "www" / "net.pth").write_bytes(saved({"model": state}))
    url = f"{server.url}/net.pth"
    for _ in range(2):
        model = Small()
        assert load_file(model, "small", url).line == f"20 of 20 tensors loaded from {url}"
        assert torch.equal(model.fc.weight, state["fc.weight"])
    assert server.asked == ["/net.pth"]
    assert len(files_in(cache)) == 1


def test_the_hash_in_a_url_is_checked(tmp_path: Path, cache: Path, server: Server) -> None:
    content = saved(Small().state_dict())
    digest = hashlib.sha256(content).hexdigest()
    www = tmp_path / "www"
    right, wrong = f"net-{digest[:8]}.pth", "net-0123abcd.pth"
    for name in (right, wrong, "net.pth", "net-20260131.pth"):
        (www / name).write_bytes(content)
    for good in (right, f"net.pth#sha256={digest}", f"net.pth#sha256={digest[:12].upper()}", "net-20260131.pth"):
        find_weights(f"{server.url}/{good}")
    before = files_in(cache)
    for bad in (wrong, f"{right}#sha256={'0' * 64}"):
        with pytest.raises(UserError, match=r"gave a file with another SHA-256 than .*; correct the URL") as error:
            find_weights(f"{server.url}/{bad}")
        assert "\n" not in str(error.value)
        assert files_in(cache) == before
    with pytest.raises(UserError, match="should end with 8 to 64 hexadecimal digits"):
        find_weights(f"{server.url}/net.pth#sha256=latest")


def test_a_damaged_file_in_the_cache_is_downloaded_again(tmp_path: Path, cache: Path, server: Server) -> None:
    content = saved(Small().state_dict())
    (tmp_path / "www" / "net.pth").write_bytes(content)
    url = f"{server.url}/net.pth#sha256={hashlib.sha256(content).hexdigest()}"
    path = find_weights(url).path
    flip(path, 100)
    assert find_weights(url).path.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{server}/cut.pth", r"the weights at .*/cut.pth could not be downloaded \(.+\); check the URL"),
        ("{server}/missing.pth", "there is no file of weights at .*/missing.pth; correct the URL"),
        ("http://127.0.0.1:9/net.pth", r"could not be downloaded \(.+\); check the URL and the connection"),
        ("memory://nothing.pth", "there is no file of weights at memory://nothing.pth"),
        ("gs://bucket/net.pth", r"gs://bucket/net.pth needs another package \(.*gcsfs.*\); install it"),
        ("nonsense://net.pth", r"could not be downloaded \(Protocol not known: nonsense"),
    ],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(
    url: str, message: str, cache: Path, server: Server
) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_weights(url.format(server=server.url))
    assert "\n" not in str(error.value)
    assert files_in(cache) == []


def test_a_web_page_does_not_stay_in_the_cache(tmp_path: Path, cache: Path, server: Server) -> None:
    (tmp_path / "www" / "net.pth").write_text("<!doctype html><p>log in")
    with pytest.raises(UserError, match="is a web page"):
        load_file(Small(), "small", f"{server.url}/net.pth")
    assert files_in(cache) == []


def test_a_cache_that_can_not_be_written(cache: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "www" / "net.pth").write_bytes(b"x")
    cache.write_text("a file")
    with pytest.raises(UserError, match=r"the cache folder .* could not be written .*FOOD101_FAST_CACHE"):
        find_weights(f"{server.url}/net.pth")


def test_other_protocols(cache: Path) -> None:
    with fsspec.open("memory://weights/net.safetensors", "wb") as file:
        file.write(safetensors.torch.save(Small().state_dict()))
    line = load_file(Small(), "small", "memory://weights/net.safetensors").line
    assert line == "20 of 20 tensors loaded from memory://weights/net.safetensors"


def test_a_local_file_and_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(Small().state_dict())
    (tmp_path / "net-0123abcd.pth").write_bytes(content)  # the digits may be anything: a user named the file
    monkeypatch.setenv("HOME", str(tmp_path))
    digest = hashlib.sha256(content).hexdigest()
    for weights in ("~/net-0123abcd.pth", f"~/net-0123abcd.pth#sha256={digest}", f"file://{tmp_path}/net-0123abcd.pth"):
        assert is_location(weights)
        assert find_weights(weights).path == tmp_path / "net-0123abcd.pth"
    with pytest.raises(UserError, match="does not have the SHA-256 0123abcd: it is damaged or another file"):
        find_weights("~/net-0123abcd.pth#sha256=0123abcd")


def test_a_run_is_its_best_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    best = safetensors.torch.load_file(tiny_run / "checkpoints" / "best" / "model.safetensors")
    for weights in (tiny_run, tiny_run / "checkpoints" / "best"):
        model = build_model("shufflenet_v2_x0_5", str(weights), 3)
        assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    flip(copy / "checkpoints" / "best" / "model.safetensors", -1)
    with pytest.raises(UserError, match=r"run/checkpoints/best/model.safetensors is damaged: its bytes are not those"):
        find_weights(str(copy))
    with pytest.raises(UserError, match=r"the folder .* has no checkpoints/best/model.safetensors or"):
        find_weights(str(tmp_path))


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "ra2_in1k", "fb_in22k_ft_in1k_384"])
def test_names_of_weights_are_not_locations(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DEFAULT").mkdir()
    assert not is_location(weights)


def test_the_line_is_printed_and_the_model_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network: nn.Module = build_model("shufflenet_v2_x0_5", "none", 4)
    state = network.state_dict()
    del state["conv1.1.weight"]
    torch.save({"state_dict": state}, tmp_path / "net.ckpt")
    build_model("shufflenet_v2_x0_5", str(tmp_path / "net.ckpt"), 3)
    out, err = capsys.readouterr()
    assert " ".join(out.split()) == f"335 of 338 tensors loaded from {tmp_path}/net.ckpt; fc is new"
    assert "warning: the weights in" in err
    assert "conv1.1.weight is missing" in " ".join(err.split())
