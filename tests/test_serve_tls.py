"""TLS: HTTP/2 and 1.1 by ALPN, and certificates that are renewed while it serves."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from serving import STREAM, TEXT, Server, head, make_certificate, read_rest, refused, serving
from test_cli import USAGE

CURL = shutil.which("curl") or ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, folder: Path) -> Iterator[Server]:
    """A server with TLS, and with a context that trusts it."""
    cert, key = make_certificate(folder)
    with serving(tmp_path / "data", "--tls-cert", cert, "--tls-key", key) as server:
        server.tls = ssl.create_default_context(cafile=str(cert))
        yield server


def names(server: Server) -> str:
    """The name in the certificate that it shows now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", server.port)) as sock,
        context.wrap_socket(sock) as tls,
    ):
        data = tls.getpeercert(binary_form=True)
    assert data is not None
    return x509.load_der_x509_certificate(data).subject.rfc4514_string()


def test_http_2_and_1_are_chosen_by_the_client(server: Server) -> None:
    assert server.urls[0].startswith("https://127.0.0.1:")
    server.create()
    assert server.append(b"first").status == 204
    assert server.tls is not None
    for two in (False, True):
        with httpx2.Client(http2=two, verify=server.tls, base_url=server.urls[0]) as client:
            answer = client.get(STREAM, params={"offset": "-1"})
            assert answer.http_version == ("HTTP/2" if two else "HTTP/1.1")
            assert answer.text == "first"
            created = client.put(f"{STREAM}/{two}", headers=TEXT)
            assert created.headers["location"].startswith("https://")
    assert server.stop() == ""


@pytest.mark.skipif(not CURL, reason="curl is not installed")
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl_follows(server: Server, folder: Path, version: str) -> None:
    server.create()
    server.append(b"first")
    assert server.ask("POST", STREAM, b"", {"stream-closed": "true"}).status == 204
    url = f"{server.urls[0]}{STREAM}?offset=-1&live=sse"
    done = subprocess.run(
        [CURL, "-sS", f"--http{version}", "-D", "-", "--cacert", str(folder / "cert.pem"), url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"HTTP/{version} 200")
    assert "data:first" in done.stdout


def test_only_what_is_safe_is_spoken(server: Server) -> None:
    """No old TLS, and nothing without it. Any name is answered to: the certificate has them."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head("GET", "/healthz"))
        assert b"200" not in read_rest(sock)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for cipher, fits in (("ECDHE+AESGCM", True), ("AES256-SHA256", False), ("ECDHE+SHA", False)):
        context.set_ciphers(f"{cipher}:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            try:
                with context.wrap_socket(sock) as tls:
                    assert tls.version() == "TLSv1.2"
                    assert fits
            except (ssl.SSLError, ConnectionResetError):
                assert not fits
    assert server.ask("GET", "/healthz", headers={"host": "log.example"}).status == 200


@pytest.mark.happens
def test_a_certificate_is_renewed_while_it_serves(server: Server, folder: Path) -> None:
    assert names(server) == "CN=localhost"
    with server.connect() as kept:
        make_certificate(folder, "renewed")
        server.process.send_signal(signal.SIGHUP)
        while names(server) != "CN=renewed":
            pass
        kept.sendall(head("GET", "/healthz", "connection: close"))
        assert read_rest(kept).endswith(b"ok\n")
    cert = folder / "cert.pem"
    cert.write_text("no certificate")
    server.process.send_signal(signal.SIGHUP)
    assert server.process.stderr is not None
    said = server.process.stderr.readline().decode()
    assert f"--tls-cert {cert}" in said
    assert "what was read before stays" in said
    assert names(server) == "CN=renewed"
    cert.unlink()
    server.process.send_signal(signal.SIGHUP)
    assert "No such file or directory" in server.process.stderr.readline().decode()
    assert names(server) == "CN=renewed"
    assert server.stop() == ""


def test_a_key_with_a_password_is_refused_and_asks_nobody(tmp_path: Path, folder: Path) -> None:
    cert, key = make_certificate(folder, password=b"secret")
    code, err = refused(tmp_path / "data", "--tls-cert", cert, "--tls-key", key)
    assert code == USAGE
    assert "in PEM and without a password" in err


def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, folder: Path) -> None:
    cert, key = make_certificate(folder)
    options = ("--tls-cert", cert, "--tls-key", key, "--header-timeout", 0.2)
    with (
        serving(tmp_path / "data", *options) as server,
        socket.create_connection(("127.0.0.1", server.port)) as silent,
        socket.create_connection(("127.0.0.1", server.port)) as begun,
    ):
        begun.sendall(b"\x16\x03\x01\x02\x00\x01")
        for sock in (silent, begun):
            assert b"200" not in read_rest(sock)
        assert server.stop() == ""


def test_the_end_does_not_wait_for_handshakes(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        assert server.ask("GET", "/healthz").status == 200
        assert server.stop() == ""
        assert read_rest(silent) == b""
