"""Real servers for the tests: started once, on free ports of this machine, and stopped at the end.

A test that needs one takes the fixture `s3` (ministack), `more_s3` (seaweedfs, too, when
DANUBE_MORE_SERVERS=1) or `gcs` (a small fake of our own), and is skipped only if it is not
installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import fake_gcs
import pytest

from danube_trio.cloud import StoreOptions

BUCKET = "wal"
START_SECONDS = 60
STOP_SECONDS = 10
MORE_SERVERS = os.environ.get("DANUBE_MORE_SERVERS") == "1"


@attrs.define(eq=False)
class Server:
    """A running server, and how to reach it.

    Attributes:
        url: of a bucket that exists.
    """

    url: str
    options: StoreOptions
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SECONDS)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def program(name: str) -> str:
    """The path of a program beside this Python, or on the PATH; skips the test without it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def running(
    command: list[str], log: Path, ready: Callable[[], bool], **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; the block begins when it is ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}, cwd=log.parent
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} did not start: {tail}")
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def answers(url: str, method: str = "GET") -> bool:
    """Whether a server answers at all, and not that it is still busy starting."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except OSError:
        return False


def s3_options(port: int) -> StoreOptions:
    return StoreOptions(
        endpoint=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key_id="danube",
        secret_access_key="a-secret-of-the-tests",
        allow_http=True,
    )


@contextmanager
def ministack(directory: Path) -> Generator[Server]:
    """An S3 server with an empty bucket."""
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    settings = {"BIND_HOST": "127.0.0.1", "SERVICES": "s3", "GATEWAY_PORT": str(port)}
    log = directory / "ministack.log"
    with running([program("ministack")], log, lambda: answers(root), **settings) as process:
        assert answers(f"{root}/{BUCKET}", "PUT")
        yield Server(f"s3://{BUCKET}", s3_options(port), process)


@contextmanager
def seaweedfs(directory: Path) -> Generator[Server]:
    """Another S3 server with an empty bucket."""
    options = s3_options(free_port())
    assert options.endpoint is not None
    assert options.access_key_id is not None
    assert options.secret_access_key is not None
    ports = [
        f"-{name}={free_port()}"
        for server in ("master", "volume", "filer", "admin")
        for name in (f"{server}.port", f"{server}.port.grpc")
    ]
    command = [program("weed"), "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-bucket={BUCKET}", f"-s3.port={options.endpoint.rsplit(':', 1)[1]}"]
    command += [f"-s3.port.grpc={free_port()}", *ports, "-admin.ui=false", "-webdav=false"]
    settings = {
        "AWS_ACCESS_KEY_ID": options.access_key_id,
        "AWS_SECRET_ACCESS_KEY": options.secret_access_key,
    }
    endpoint = options.endpoint
    log = directory / "weed.log"
    with running(command, log, lambda: answers(endpoint), **settings) as process:
        yield Server(f"s3://{BUCKET}", options, process)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server for all tests; each uses a prefix of its own."""
    with ministack(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_url(s3: Server) -> str:
    """The URL of a bucket that exists."""
    return s3.url


@pytest.fixture(scope="session")
def s3_store_options(s3: Server) -> StoreOptions:
    """How to reach it."""
    return s3.options


@pytest.fixture(scope="session")
def more_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second S3 server, when DANUBE_MORE_SERVERS=1."""
    if not MORE_SERVERS:
        pytest.skip("a second opinion is asked for with DANUBE_MORE_SERVERS=1")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[Server]:
    """A fake of Google's for all tests; each uses a prefix of its own."""
    with fake_gcs.serving() as (endpoint, _):
        options = StoreOptions(endpoint=endpoint, anonymous=True, allow_http=True)
        yield Server(f"gs://{BUCKET}", options)
