"""Behind the proxies that docs/howto/serve.md configures, and under a service manager."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import httpx2
import pytest
from serving import PATIENCE, STREAM, TEXT, Server, make_certificate, serving
from test_cli import COMMAND, ENVIRONMENT, ROOT

from danube_trio.cli._app import app

PAGE = (ROOT / "docs" / "howto" / "serve.md").read_text()
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or ""
CADDY = shutil.which("caddy") or ""
PROXIED = ("--host", "log.example", "--proxied")


def block_with(text: str) -> str:
    """The block of the page that has this text in it."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [str(block) for block in blocks if text in block]
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Generator[None]:
    """A proxy, ready."""
    log = folder / "proxy.log"
    env = {**os.environ, "HOME": str(folder)}
    with log.open("wb") as output, Popen(command, stdout=output, stderr=output, env=env) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    assert process.poll() is None, log.read_text()
                else:
                    break
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def check(server: Server, client: httpx2.Client, scheme: str) -> None:
    """Writes, reads and events go through, and events at once."""
    created = client.put(STREAM, headers=TEXT)
    assert created.status_code == 201, created.text
    assert created.headers["location"].startswith(f"{scheme}://log.example/v1/stream/")
    with client.stream("GET", STREAM, params={"offset": "now", "live": "sse"}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: control"
        for text in ("first", "second"):  # more would wait in a buffer
            assert client.post(STREAM, content=text, headers=TEXT).status_code == 204
            while next(lines) != f"data:{text}":
                pass
    poll = client.get(STREAM, params={"offset": "-1", "live": "long-poll"})
    assert poll.text == "firstsecond"
    assert client.post(STREAM, content=b"x" * (8 << 20), headers=TEXT).status_code == 204
    assert server.ask("GET", "/healthz", headers={"host": "other.example"}).status == 421


@pytest.mark.skipif(not NGINX, reason="nginx is not installed")
@pytest.mark.parametrize("unix", [False, True], ids=["port", "unix"])
def test_nginx_as_the_page_has_it(tmp_path: Path, unix: bool) -> None:
    cert, key = make_certificate(tmp_path, "log.example")
    listen = f"unix:{tmp_path}/serve.sock" if unix else "127.0.0.1:0"
    with serving(tmp_path / "data", *PROXIED, listen=listen) as server:
        port = free_port()
        text = block_with("proxy_pass http://127")
        for old, new in (
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("/etc/ssl/log.example/cert.pem", str(cert)),
            ("/etc/ssl/log.example/key.pem", str(key)),
            ("http://127.0.0.1:4437", f"http://{listen}" if unix else server.urls[0]),
        ):
            assert old in text
            text = text.replace(old, new)
        user = "user root;" if os.geteuid() == 0 else ""
        places = "".join(
            f"{name}_temp_path {tmp_path}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"daemon off; {user} pid {tmp_path}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places}\n{text}}}\n"
        )
        with running([NGINX, "-c", str(config), "-p", str(tmp_path)], port, tmp_path):
            with client_of(port, cert) as client:
                if unix:
                    assert client.get("/readyz").text == "ready\n"
                else:
                    check(server, client, "https")


@contextmanager
def client_of(port: int, cert: Path | None) -> Generator[httpx2.Client]:
    """A client of the proxy: it asks for log.example, in HTTP/2 where there is TLS."""
    context = ssl.create_default_context(cafile=str(cert) if cert else None)
    with httpx2.Client(
        http2=True,
        verify=context,
        timeout=PATIENCE,
        base_url=f"http{'s' if cert else ''}://localhost:{port}",
        headers={"host": "log.example"},
    ) as client:
        yield client


@pytest.mark.skipif(not CADDY, reason="caddy is not installed")
@pytest.mark.parametrize("upstream", ["", "h2c://"])
def test_caddy_as_the_page_has_it(tmp_path: Path, upstream: str) -> None:
    with serving(tmp_path / "data", *PROXIED) as server:
        port = free_port()
        text = block_with("reverse_proxy 127")
        for old, new in (
            ("log.example {", f"http://log.example:{port} {{\nbind 127.0.0.1"),
            ("127.0.0.1:4437", f"{upstream}127.0.0.1:{server.port}"),
        ):
            assert old in text
            text = text.replace(old, new)
        config = tmp_path / "Caddyfile"
        config.write_text("{\nadmin off\nauto_https off\n}\n" + text)
        command = [CADDY, "run", "--adapter", "caddyfile", "--config", str(config)]
        with running(command, port, tmp_path), client_of(port, None) as client:
            check(server, client, "http")
            too_large = b"x" * ((8 << 20) + 1)
            assert client.post(STREAM, content=too_large, headers=TEXT).status_code == 413


def test_who_asks_is_what_the_proxy_says_if_there_is_one(tmp_path: Path) -> None:
    forged = {"x-forwarded-for": "192.0.2.9, 192.0.2.1", "x-forwarded-proto": "https", **TEXT}
    for proxied in (False, True):
        root = tmp_path / str(proxied)
        options = ("--proxied",) if proxied else ()
        with serving(root, "--access-log", "-", *options) as server:
            created = server.ask("PUT", STREAM, headers=forged)
            said = server.stop()
        scheme, client = ("https", "192.0.2.1") if proxied else ("http", "127.0.0.1")
        assert created.headers["location"].startswith(f"{scheme}://")
        assert f'"client": "{client}"' in said


# ---- the service manager


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(path))
        command = [*COMMAND, "serve", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
        env = {**ENVIRONMENT, "NOTIFY_SOCKET": str(path)}
        with Popen(command, stdout=PIPE, stderr=PIPE, env=env) as process:
            assert sock.recv(100) == b"READY=1"
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"serving ")
            process.terminate()
            assert sock.recv(100) == b"STOPPING=1"
            assert process.communicate(timeout=PATIENCE) == (b"", b"")


def test_the_unit_of_the_page_has_options_that_there_are() -> None:
    unit = block_with("[Service]")
    options = {name for param in app.commands["serve"].params for name in param.opts}
    used = set(re.findall(r"(?<=\s)--[a-z-]+", unit))
    assert {"--token-file", "--proxied"} <= used <= options
    seconds = re.search(r"TimeoutStopSec=(\d+)", unit)
    (grace,) = [param.default for param in app.commands["serve"].params if param.name == "grace"]
    assert seconds is not None
    assert int(seconds[1]) > float(str(grace))
