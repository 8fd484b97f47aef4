"""Prepare where the data is larger than one machine: on a Ray cluster, into and out of a bucket."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import s3fs

from food101_fast.errors import UserError
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder, RemoteFolder, open_folder
from tests.conftest import contents, write_folder

FLAGS = ["--size", "24", "--samples-per-shard", "6", "--workers", "2"]
Respond = Callable[..., object]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "set", {"ramen": 20, "tacos": 20})


def prepare_command(source: str, out: object, *flags: str) -> list[str]:
    return [sys.executable, "-m", "food101_fast.prepare", "--source", source, "--out", str(out), *FLAGS, *flags]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that a local run leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(prepare_command(f"folder:{source}", out), check=True, capture_output=True)
    return {name: content for name, content in contents(out).items() if (out / name).is_file()}


ON_RAY = """
import sys
from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.prepare.executors import RayCluster

class Failing:
    def compute(self, task, count):
        raise UserError("what a worker far away has found out")
    def store(self, made):
        return made

source, out = sys.argv[1:]
prepare(PrepareSettings(source=source, out=out, size=24, samples_per_shard=6, workers=2, executor="ray"))
try:
    list(RayCluster(None, 2).run(Failing(), [(1,)], lambda done: None))
except UserError as error:
    print("one sentence:", error)
"""


def test_a_ray_cluster_writes_the_same_bytes(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: install the extra food101-fast[ray]")
    out = tmp_path / "out"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-c", ON_RAY, f"folder:{source}", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert {name: (out / name).read_bytes() for name in LocalFolder(out).files()} == whole
    assert "one sentence: what a worker far away has found out" in process.stdout


class Bucket:
    """A real S3 protocol server on loopback, and a hook that sees each upload before its body is read."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.before_upload: Callable[[str], None] = lambda path: None
        application: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)

        def watched(environ: dict[str, str], start_response: Respond) -> Iterable[bytes]:
            if environ["REQUEST_METHOD"] == "PUT":
                self.before_upload(environ["PATH_INFO"])
            return application(environ, start_response)

        self._server = make_server("127.0.0.1", 0, watched, threaded=True)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """The bucket `shards`, which this process and those it starts see."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem().mkdir("shards")
        yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


def objects(url: str) -> dict[str, bytes]:
    folder = open_folder(url)
    return {name: folder.read(name) for name in folder.files()}


pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that play the bucket


def prepare_until(bucket: Bucket, moment: int | str, command: list[str]) -> str:
    """Run `command` until it starts its upload number `moment`, or that of an object that ends so; kill it then."""
    uploads: list[str] = []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)

    def kill(path: str) -> None:
        uploads.append(path)
        if moment == len(uploads) or (isinstance(moment, str) and path.endswith(moment)):
            os.killpg(process.pid, signal.SIGKILL)

    bucket.before_upload = kill
    shown = process.communicate()[1].decode()
    bucket.before_upload = lambda path: None
    assert process.returncode == -signal.SIGKILL, shown
    return shown


@pytest.mark.parametrize(
    "moments",
    [
        (9, "manifest.json"),
        (2, 5, 7, 9, 13, "overview/samples.png", "manifest.json"),
    ],
    ids=len,
)
@pytest.mark.slow
def test_a_bucket_is_prepared_interrupted_and_completed(
    bucket: Bucket,
    source: Path,
    whole: dict[str, bytes],
    moments: tuple[int | str, ...],
    command: Callable[..., tuple[int, str, str]],
) -> None:
    url = f"s3://shards/food-{len(moments)}"
    # The lock is the first upload, the settings are the second; a shard takes three.
    for moment in moments:
        shown = prepare_until(bucket, moment, prepare_command(f"folder:{source}", url))
        assert "Traceback" not in shown
        if moment != "manifest.json":
            assert "manifest.json" not in RemoteFolder(url).files()
        elif "manifest.json" in RemoteFolder(url).files():  # it had left before its sender was killed
            assert not [line for line in verify(open_folder(url)) if ".unfinished" not in line]
    assert any(name.endswith(".tar") for name in RemoteFolder(url).files())
    process = subprocess.run(prepare_command(f"folder:{source}", url), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert objects(url) == whole
    assert not list(verify(open_folder(url)))
    code, out, _ = command("shards", "verify", url)
    assert code == 0
    assert "all as written" in out
    RemoteFolder(url).write("val-000000.tar", b"")
    assert command("shards", "verify", url)[0] == 1


def test_images_are_read_from_a_bucket(bucket: Bucket, source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    images = open_folder("s3://shards/images")
    for path in source.rglob("*.jpg"):
        images.write(path.relative_to(source).as_posix(), path.read_bytes())
    command = prepare_command("folder:s3://shards/images", tmp_path / "out")
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    tars = [name for name in whole if name.endswith(".tar")]
    assert tars
    assert all((tmp_path / "out" / name).read_bytes() == whole[name] for name in tars)


def test_a_locked_bucket_is_refused(bucket: Bucket, source: Path) -> None:
    url = "s3://shards/locked"
    with (
        open_folder(url).lock(".unfinished/lock"),
        pytest.raises(UserError, match=r"process \d+ on .* is writing into"),
        RemoteFolder(url).lock(".unfinished/lock"),
    ):
        pass
    with RemoteFolder(url).lock(".unfinished/lock"):
        pass
    assert RemoteFolder(url).files() == {}


def test_a_bucket_that_is_not_there_is_one_sentence(bucket: Bucket, source: Path) -> None:
    command = prepare_command(f"folder:{source}", "s3://no-such-bucket/food")
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: s3://no-such-bucket/food could not be written (")


def test_an_unknown_protocol_is_one_sentence() -> None:
    with pytest.raises(UserError, match="can't be opened"):
        open_folder("nonsense://bucket/shards")
