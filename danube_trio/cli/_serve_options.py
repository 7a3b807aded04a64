"""The options of `serve`. Imports little more than click: `--help` waits for this file.

Defaults that are those of the settings behind them are said here anew, because the settings are not
imported for `--help`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click import Choice, FloatRange, IntRange

from danube_trio._core.numbers import number_in

KIB, MIB = 1 << 10, 1 << 20

F = TypeVar("F", bound=Callable[..., Any])


class Address:
    """Where to listen: a host and a port, or a path."""

    def __init__(self, text: str, host: str = "", port: int = 0, path: str = "") -> None:
        self._text = text
        self.host = host
        self.port = port
        self.path = path

    def __str__(self) -> str:
        return self._text


def to_addresses(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[Address, ...]:
    """The values of ``--listen``."""
    return tuple(_to_address(ctx, param, text) for text in texts)


def _to_address(ctx: click.Context, param: click.Parameter, text: str) -> Address:
    if text.startswith("unix:") and text != "unix:":
        return Address(text, path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    number = number_in(port)
    whole = bare and colon and (":" not in host or host == f"[{bare}]")
    if not whole or number is None or number > 0xFFFF:
        raise click.BadParameter(
            f"{text!r} must be HOST:PORT, as 127.0.0.1:4437 or [::1]:4437, or unix:PATH", ctx, param
        )
    return Address(text, host=bare, port=number)


def to_origins(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """The values of ``--origin``."""
    for text in texts:
        if text != "*" and ("://" not in text or text.endswith("/")):
            fault = f"{text!r} must be an origin, as https://app.example, or *"
            raise click.BadParameter(fault, ctx, param)
    return texts


def _seconds(name: str, field: str, default: float, help: str, most: float = 86_400.0) -> Any:
    return click.option(
        name, field, type=FloatRange(0.01, most), default=default, metavar="SECONDS", help=help
    )


def _number(
    name: str, field: str, default: int, most: int, help: str, metavar: str = "N", least: int = 1
) -> Any:
    return click.option(
        name, field, type=IntRange(least, most), default=default, metavar=metavar, help=help
    )


_OPTIONS: Final = (
    click.option(
        "--listen", "addresses", metavar="HOST:PORT", multiple=True, callback=to_addresses,
        default=("127.0.0.1:4437",),
        help="Where to listen; port 0 is any that is free. Or unix:PATH, for a proxy on this "
        "machine. May be repeated.",
    ),
    click.option(
        "--tls-cert", metavar="FILE", type=click.Path(),
        help="The certificate for TLS, with its chain, in PEM. Read anew on SIGHUP.",
    ),
    click.option("--tls-key", metavar="FILE", type=click.Path(), help="Its key, in PEM."),
    click.option(
        "--token-file", metavar="FILE", type=click.Path(),
        help="Who may do what: lines of NAME RIGHTS TOKEN [STREAM ...]. Rights are read, write and "
        "admin, joined by commas; a token is as it is or as sha256:DIGITS. Nobody else may read "
        "the file. Read anew on SIGHUP. Without it, everybody who reaches the server may do "
        "everything, so it listens on this machine only.",
    ),
    click.option(
        "--host", "hosts", metavar="NAME", multiple=True,
        help="A name that the server is asked for by, as a proxy passes it on; may be repeated. On "
        "127.0.0.1 without TLS, requests for other names than localhost are refused.",
    ),
    click.option(
        "--proxied", is_flag=True,
        help="A proxy is in front, and says in X-Forwarded-For and X-Forwarded-Proto who asks.",
    ),
    click.option(
        "--origin", "origins", metavar="ORIGIN", multiple=True, callback=to_origins,
        help="Whose pages in a browser may use the streams, as https://app.example; * is "
        "anybody's. May be repeated. Without it, none but the server's own.",
    ),
    click.option(
        "--webhook", "webhooks", metavar="URL", multiple=True,
        help="Where webhooks may go, as https://worker.example/*; * is any text in the host, the "
        "port or the path. May be repeated. Without it, nowhere.",
    ),
    click.option(
        "--cache", type=Choice(["public", "private", "no-store"]), default="private",
        help="Who may keep answers to reads: shared caches too, the reader's own, or none.",
    ),
    click.option(
        "--no-page", "page", flag_value=False, default=True, show_default=False,
        help="Have no page for people at /.",
    ),
    click.option("--metrics", is_flag=True, help="Show metrics for Prometheus at /metrics."),
    click.option(
        "--access-log", metavar="FILE", type=click.Path(),
        help="A line of JSON for each request; - is stderr. A file is opened anew on SIGHUP.",
    ),
    _seconds(
        "--grace", "grace", 10.0,
        "At SIGTERM and SIGINT: how long requests under way have to their end.",
    ),
    _number("--max-body", "max_body_bytes", 8 * MIB, 60 * MIB, "Largest body.", "BYTES"),
    _number(
        "--max-header", "max_header_bytes", 16 * KIB, 1 * MIB,
        "Largest head of a request.", "BYTES", least=1024,
    ),
    _number("--max-streams", "max_streams", 100_000, 10_000_000, "How many streams there may be."),
    _number(
        "--max-open", "max_open_topics", 256, 1_000_000,
        "How many streams are open at a time. Each takes four file descriptors.",
    ),
    _number(
        "--max-connections", "max_connections", 4096, 1_000_000,
        "How many connections there may be; one more waits, and idle ones are closed for it.",
    ),
    _number(
        "--max-waiting", "max_waiting", 2048, 1_000_000,
        "How many long-polls and SSE readers there may be.",
    ),
    _seconds(
        "--long-poll", "long_poll_seconds", 30.0, "How long a long-poll waits for data.", 3600.0
    ),
    _seconds(
        "--sse", "sse_seconds", 60.0, "How long an SSE answer goes on; then its reader comes again."
    ),
    _seconds("--body-timeout", "body_seconds", 30.0, "How long a client may take to send a body."),
    _seconds(
        "--header-timeout", "head_seconds", 10.0,
        "How long a client may take to send a head, or for a TLS handshake.",
    ),
    _seconds(
        "--idle-timeout", "idle_seconds", 75.0, "How long a connection is kept without requests."
    ),
    _seconds(
        "--send-timeout", "send_seconds", 30.0, "How long a client may take to read each 64 KiB."
    ),
)  # fmt: skip


def serve_options(command: F) -> F:
    """All of them."""
    decorated: Any = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: F = decorated
    return result
