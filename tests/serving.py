"""`danube-trio serve` for the tests, as a process of its own, and bare connections to it."""

from __future__ import annotations

import http.client
import json
import select
import signal
import socket
import ssl
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from test_cli import COMMAND, ENVIRONMENT

# Nothing here is waited for longer; it is a bound, and no measure.
PATIENCE = 30
TEXT = {"content-type": "text/plain"}
STREAM = "/v1/stream/notes"


@attrs.frozen
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Server:
    """A running server.

    Attributes:
        urls: that it listens at, as it said.
        root: the directory of its storage.
    """

    def __init__(self, process: Popen[bytes], root: Path) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.root = root
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.stderr.read().decode())
        self.ready: dict[str, Any] = json.loads(line)
        self.urls: list[str] = self.ready["urls"]
        self.tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        port = urlsplit(self.urls[0]).port
        assert port is not None
        return port

    def connect(self) -> socket.socket:
        """A connection, with TLS if the server has it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        if self.tls is not None:
            return self.tls.wrap_socket(sock, server_hostname="localhost")
        return sock

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """A request in a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def create(self, path: str = STREAM, **headers: str) -> None:
        """Make a stream of text."""
        assert self.ask("PUT", path, headers={**TEXT, **headers}).status == 201

    def append(self, body: bytes, path: str = STREAM) -> Answer:
        """Append to it."""
        return self.ask("POST", path, body, TEXT)

    def read(self, path: str = STREAM) -> bytes:
        """All of it."""
        answer = self.ask("GET", f"{path}?offset=-1")
        assert answer.status == 200, answer
        return answer.body

    def topics(self) -> list[Path]:
        """The directories of the logs of its streams."""
        return sorted((self.root / "streams").iterdir())

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; returns what it said on stderr. Its exit code is 0."""
        self.process.send_signal(number)
        return self.ended(0)

    def ended(self, code: int) -> str:
        """Wait for its end, with this exit code; returns what it said on stderr."""
        _, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code, err.decode()
        return err.decode()


def answer_of(response: http.client.HTTPResponse) -> Answer:
    """A whole answer."""
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@contextmanager
def serving(root: Path, *options: object, listen: str = "127.0.0.1:0") -> Generator[Server]:
    """A server, ready; it is ended after the block, if it was not before."""
    command = [*COMMAND, "serve", str(root), "--json", "--listen", listen, *map(str, options)]
    with Popen(command, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT) as process:
        try:
            yield Server(process, root)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=PATIENCE)
                finally:
                    process.kill()


def refused(root: Path, *options: object) -> tuple[int, str]:
    """The exit code, and what is said on stderr, of a server that does not start."""
    done = subprocess.run(
        [*COMMAND, "serve", str(root), *map(str, options)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


# ---- bare connections


def head(method: str, path: str, *lines: str) -> bytes:
    """The head of a request in HTTP/1.1."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


def read_head(sock: socket.socket) -> bytes:
    """The head of an answer, and nothing of what follows."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        data += byte
    return data


def read_rest(sock: socket.socket) -> bytes:
    """Everything until the server closes, or cuts it."""
    pieces: list[bytes] = []
    with suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def wait_cut(sock: socket.socket) -> None:
    """Until the server has cut it, without reading anything."""
    poll = select.poll()
    poll.register(sock, 0)
    ((_, events),) = poll.poll(PATIENCE * 1000)
    assert events & select.POLLERR


def read_until(sock: socket.socket, what: bytes) -> bytes:
    """Everything until this has come."""
    data = b""
    while what not in data:
        piece = sock.recv(1 << 16)
        assert piece, data
        data += piece
    return data


def begin_append(server: Server, size: int, path: str = STREAM) -> socket.socket:
    """A connection in which an append has begun: the server has its head, and says go on."""
    sock = server.connect()
    lines = "content-type: text/plain", f"content-length: {size}", "expect: 100-continue"
    sock.sendall(head("POST", path, *lines))
    assert read_head(sock).startswith(b"HTTP/1.1 100 ")
    return sock


def begin_reading(server: Server, offset: str = "now") -> socket.socket:
    """A connection with an SSE reader, which has got what there is."""
    sock = server.connect()
    sock.sendall(head("GET", f"{STREAM}?offset={offset}&live=sse"))
    read_until(sock, b'"upToDate":true')
    return sock


# ---- certificates


def make_certificate(
    folder: Path, name: str = "localhost", *, password: bytes | None = None
) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key: their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    secret = BestAvailableEncryption(password) if password is not None else NoEncryption()
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    return files
