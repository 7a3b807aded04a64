"""``danube-trio serve``: the streams of a storage over HTTP, and a page to look at them.

::

    read tokens and certificate --> listen --> open store and storage --> open site --> "serving"
    SIGHUP:           read both, and open the access log, anew
    SIGTERM, SIGINT:  accept nothing more --> answer who waits --> what is under way ends
                      --> the storage is left --> exit code 0

What can be wrong with the options is found before anything is opened: a log that another machine
has is not taken over for a port that is not free.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import attrs
import trio

from danube_trio._core.segment import LogNames
from danube_trio._disk.real import RealDisk
from danube_trio._engine.topics.open import FILES_OF_A_TOPIC
from danube_trio.cli._access_log import AccessLog
from danube_trio.cli._connections import Connections, Limits
from danube_trio.cli._failures import give_up_output
from danube_trio.cli._listen import Certificate, Listening, open_listeners
from danube_trio.cli._private_file import read_private
from danube_trio.cli._say import complain, say
from danube_trio.cli._serve_options import Address
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.cli._words import in_words
from danube_trio.config import StorageConfig
from danube_trio.http import (
    LOOPBACK_HOSTS,
    HttpConfig,
    Tokens,
    open_site,
)
from danube_trio.http._shown_streams import page_of
from danube_trio.storage import Storage, open_storage

# A token and its names have some hundred bytes.
MOST_TOKEN_BYTES = 1 << 20
# Descriptors besides those of connections and of logs; a guess.
OTHER_FILES = 100


@attrs.frozen(kw_only=True)
class Wanted:
    """What the options say, but for the settings of the streams."""

    directory: str
    where: Where
    as_json: bool
    addresses: tuple[Address, ...]
    tls_cert: str | None
    tls_key: str | None
    token_file: str | None
    hosts: tuple[str, ...]
    proxied: bool
    page: bool
    metrics: bool
    access_log: str | None
    grace: float
    max_header_bytes: int
    max_open_topics: int
    max_connections: int
    head_seconds: float
    idle_seconds: float
    send_seconds: float


def serve(**options: Any) -> None:
    """Run the command."""
    fields = {field.name for field in attrs.fields(Wanted)}
    wanted = Wanted(**{name: value for name, value in options.items() if name in fields})
    config = HttpConfig(**{name: value for name, value in options.items() if name not in fields})
    if (wanted.tls_cert is None) != (wanted.tls_key is None):
        raise ValueError("--tls-cert and --tls-key need each other")
    where = wanted.where
    if not where.url and (where.metadata or where.options or where.options_file):
        raise ValueError("missing: --store, which the other options are about")
    _check_root(wanted.directory)
    run = _Serve(wanted, config)
    trio.run(run.run)


def _check_root(directory: str) -> None:
    """ValueError for the directory of one log; what is not there is made."""
    root = os.path.abspath(directory)
    meta = LogNames.of(root, "wal.log").meta.rpartition("/")[2]
    try:
        listing = RealDisk().list_dir(root)
    except FileNotFoundError:
        return
    if meta in listing:
        raise ValueError(
            f"{directory} is the directory of one log. serve keeps many, one for each stream: name "
            f"a directory for all of them, which may be new; `danube-trio tail -f {directory}` "
            f"follows this log"
        )


class _Serve:
    """A server, from its options to its end."""

    def __init__(self, wanted: Wanted, config: HttpConfig) -> None:
        self._wanted = wanted
        self._config = config
        self._tokens = self._read_tokens(None) if wanted.token_file is not None else None
        self._certificate: Certificate | None = None
        if wanted.tls_cert is not None and wanted.tls_key is not None:
            self._certificate = Certificate(wanted.tls_cert, wanted.tls_key)
        self._access = AccessLog(wanted.access_log) if wanted.access_log is not None else None
        self._stop = trio.Event()
        self._hurry = trio.Event()

    def _read_tokens(self, tokens: Tokens | None) -> Tokens:
        """Those of the file; into these, if there are any."""
        path = self._wanted.token_file
        assert path is not None
        text = read_private(path, "--token-file", MOST_TOKEN_BYTES)
        try:
            if tokens is None:
                return Tokens(text)
            tokens.read(text)
        except ValueError as error:
            raise ValueError(f"--token-file {path}: {error}") from None
        return tokens

    async def run(self) -> None:
        """Serve until a signal says that it is enough."""
        scheme = "https" if self._certificate is not None else "http"
        async with AsyncExitStack() as stack:
            listeners = await stack.enter_async_context(
                open_listeners(self._wanted.addresses, scheme)
            )
            self._check_reach(listeners)
            storage = await self._open_storage(stack)
            await self._serve(listeners, storage, stack)

    def _check_reach(self, listeners: list[Listening]) -> None:
        """ValueError if other machines could do everything."""
        beyond = [each.url for each in listeners if not each.loopback]
        if not beyond:
            return
        if self._tokens is None:
            raise ValueError(
                f"{beyond[0]} can be reached from other machines, and everybody there could read "
                f"and write: give --token-file FILE, which says who may do what, or listen on "
                f"127.0.0.1"
            )
        if self._certificate is None:
            complain(
                f"{beyond[0]}: tokens and data go through the network as they are; --tls-cert and "
                f"--tls-key, or a proxy in front, keep them secret"
            )

    async def _open_storage(self, stack: AsyncExitStack) -> Storage:
        wanted = self._wanted
        _raise_file_limit(wanted)
        store = metadata = None
        if wanted.where.url:
            corner = await stack.enter_async_context(wanted.where.open())
            store, metadata = corner.store, corner.metadata
        wal = StorageConfig(dir=wanted.directory).wal
        # What is allowed as a body is allowed as a message.
        most = max(wal.max_message_bytes, self._config.max_body_bytes)
        config = StorageConfig(
            dir=wanted.directory,
            wal=attrs.evolve(wal, max_message_bytes=most),
            max_open_topics=wanted.max_open_topics,
            watch=True,
        )
        return await stack.enter_async_context(open_storage(config, store=store, metadata=metadata))

    def _hosts(self) -> tuple[str, ...] | None:
        """The names that it answers to; None: to any.

        A page of a foreign site reaches loopback by a name of its own (see `danube_trio.http`). It
        has no certificate for that, so with TLS only what was asked for is checked.
        """
        hosts = self._wanted.hosts
        guarded = self._certificate is None and any(
            not address.path for address in self._wanted.addresses
        )
        return (*LOOPBACK_HOSTS, *hosts) if hosts or guarded else None

    async def _serve(
        self, listeners: list[Listening], storage: Storage, stack: AsyncExitStack
    ) -> None:
        wanted = self._wanted
        site = await stack.enter_async_context(
            open_site(
                storage,
                self._config,
                authenticate=self._tokens,
                hosts=self._hosts(),
                proxied=wanted.proxied,
                page=partial(page_of, storage, hosts=None) if wanted.page else None,
                metrics=self._metrics(storage, stack) if wanted.metrics else None,
                access=self._access,
            )
        )
        limits = Limits(
            connections=wanted.max_connections,
            head_bytes=wanted.max_header_bytes,
            head_seconds=wanted.head_seconds,
            idle_seconds=wanted.idle_seconds,
            send_seconds=wanted.send_seconds,
        )
        connections = Connections(site, limits)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                if self._access is not None:
                    nursery.start_soon(self._access.run)
                nursery.start_soon(self._hear, signals)
                self._say_ready(listeners)
                cut = await connections.serve(
                    [(each.listener, self._tls(each)) for each in listeners],
                    stop=self._stop,
                    stopping=site.stop,
                    hurry=self._hurry,
                    grace=wanted.grace,
                )
                nursery.cancel_scope.cancel()
        if cut:
            complain(f"{counted(cut, 'connection')} cut: what was under way was not answered")

    def _tls(self, listening: Listening) -> Certificate | None:
        """A socket in the file system is for a proxy, which has the certificate."""
        return None if listening.file else self._certificate

    def _say_ready(self, listeners: list[Listening]) -> None:
        """Whoever connects now is served."""
        urls = [each.url for each in listeners]
        facts = {"directory": self._wanted.directory, "urls": urls, "pid": os.getpid()}
        text = f"serving {self._wanted.directory} at {' and '.join(urls)}"
        try:
            say(json.dumps(facts) if self._wanted.as_json else text)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever started it does not want to know
            give_up_output()
        _tell_systemd(b"READY=1")

    # ---- signals

    async def _hear(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == getattr(signal, "SIGHUP", None):
                await trio.to_thread.run_sync(self._read_anew)
                if self._access is not None:
                    self._access.reopen()
            elif self._stop.is_set():
                self._hurry.set()
            else:
                self._stop.set()
                _tell_systemd(b"STOPPING=1")

    def _read_anew(self) -> None:
        """Read the files that may have changed. What is wrong is said, and what was there stays."""
        steps: list[Callable[[], object]] = []
        if self._tokens is not None:
            steps.append(partial(self._read_tokens, self._tokens))
        if self._certificate is not None:
            steps.append(self._certificate.read)
        for step in steps:
            try:
                step()
            except (OSError, ValueError) as error:
                complain(f"{in_words(error)}; what was read before stays")

    # ---- metrics

    def _metrics(self, storage: Storage, stack: AsyncExitStack) -> Any:
        from danube_trio.cli._metrics import metrics_of

        return stack.enter_context(metrics_of(storage))


_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


def _tell_systemd(state: bytes) -> None:
    """Tell a service manager, if one wants to know (``Type=notify``; see sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state, f"\0{path[1:]}" if path.startswith("@") else path)
        except OSError as error:
            complain(f"{path}: {error.strerror}: the service manager was not told")


def _raise_file_limit(wanted: Wanted) -> None:
    """Take as many open files as it may need: by default a process has a part of what it may."""
    needed = wanted.max_connections + wanted.max_open_topics * FILES_OF_A_TOPIC + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft not in (resource.RLIM_INFINITY,) and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        complain(
            f"{needed} open files may be needed, and this process may have {allowed}: lower "
            f"--max-connections or --max-open, or raise the limit (ulimit -Hn)"
        )
