"""The web example under real servers: what was answered with 201 is there after anything."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from danube_trio import WalConfig, open_wal

ROOT = Path(__file__).parent.parent
SERVERS = {
    "uvicorn": ("uvicorn", ["--log-level", "warning", "--port", "{port}"]),
    "hypercorn": ("hypercorn", ["--worker-class", "trio", "--bind", "127.0.0.1:{port}"]),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """The example under a server, and clients that append to it."""

    def __init__(self, server: str, folder: Path, *more: str) -> None:
        module, arguments = SERVERS[server]
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        shutil.copy(ROOT / "examples" / "web.py", folder / "web.py")
        self.folder = folder
        self.port = free_port()
        self.acked: dict[int, bytes] = {}
        self.stop = threading.Event()
        self.count = 0
        self._command = [sys.executable, "-m", module, "web:app", *more]
        self._command += [argument.format(port=self.port) for argument in arguments]

    @contextmanager
    def running(self) -> Generator[subprocess.Popen[bytes]]:
        """The server, ready; Ctrl-C at the end, if it was not stopped before."""
        path = os.pathsep.join([str(ROOT), str(self.folder)])
        env = {**os.environ, "PYTHONPATH": path, "EVENTS_DIR": "events"}
        log = (self.folder / "server.log").open("ab")
        with (
            log,
            subprocess.Popen(
                self._command, cwd=self.folder, env=env, stdout=log, stderr=log
            ) as process,
        ):
            try:
                while self.request("GET", "/nothing")[0] != 404:
                    assert process.poll() is None, (self.folder / "server.log").read_text()
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=30)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body; 0 when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def append(self, name: int) -> None:
        """A client that appends until it is stopped, and keeps what was acknowledged."""
        number = 0
        while not self.stop.is_set():
            body = b"%d/%d" % (name, number)
            number += 1
            status, answer = self.request("POST", "/events", body)
            if status == 201:
                self.acked[int(answer)] = body

    @contextmanager
    def clients(self, count: int = 4) -> Generator[None]:
        """Clients that append meanwhile."""
        self.stop.clear()
        self.count += count
        names = range(self.count - count, self.count)
        threads = [threading.Thread(target=self.append, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def holder(self) -> str:
        """The process that has the log."""
        return (self.folder / "events" / "wal.lock").read_text()

    def wait_for(self, more: int) -> None:
        """Until so many more were acknowledged."""
        wanted = len(self.acked) + more
        while len(self.acked) < wanted:
            assert not self.stop.is_set()

    def check(self) -> None:
        """Everything acknowledged is in the log, where it was said to be."""

        async def read() -> dict[int, bytes]:
            async with open_wal(WalConfig(dir=str(self.folder / "events"))) as wal:
                return {m.offset: m.payload async for m in wal.reader(end="current")}

        found = trio.run(read)
        assert self.acked
        assert {offset: found.get(offset) for offset in self.acked} == self.acked
        assert list(found) == list(range(len(found)))


@pytest.mark.parametrize("server", SERVERS)
def test_ctrl_c_and_a_restart_lose_nothing_that_was_answered(server: str, tmp_path: Path) -> None:
    service = Service(server, tmp_path)
    for _ in range(2):
        with service.running() as process, service.clients():
            service.wait_for(30)
            process.send_signal(signal.SIGINT)  # with requests in flight
            process.wait(timeout=30)
        assert (tmp_path / "events" / "wal.lock").exists()
        service.check()
    with service.running():
        status, text = service.request("GET", "/events?start=1")
        assert status == 200
        assert len(text.splitlines()) >= len(service.acked) - 1
        assert service.request("POST", "/events", b"x" * (11 << 20))[0] in (413, 0)
        assert service.request("GET", "/events?start=99999999")[0] == 400
        assert service.request("GET", "/events?start=one")[0] == 400
        assert service.request("PUT", "/events", b"x")[0] == 405


def test_a_reload_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    service = Service("uvicorn", tmp_path, "--reload")
    with service.running(), service.clients():
        for _ in range(2):
            service.wait_for(20)
            holder = service.holder()
            source = tmp_path / "web.py"
            source.write_text(source.read_text() + "\n# changed\n")
            while service.holder() == holder:
                service.wait_for(1)  # until another process has the log
            service.wait_for(20)
    service.check()


@pytest.mark.parametrize("server", SERVERS)
def test_a_log_that_another_process_has_is_an_error_at_startup(server: str, tmp_path: Path) -> None:
    service = Service(server, tmp_path)

    async def main() -> None:
        async with open_wal(WalConfig(dir=str(tmp_path / "events"))):
            with pytest.raises(AssertionError, match="locked by process"):
                with service.running():
                    pass

    trio.run(main)
