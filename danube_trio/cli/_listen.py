"""Where a server listens: addresses, sockets, TLS."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from danube_trio._engine.watch.socket import listen as listen_at
from danube_trio.cli._serve_options import Address
from danube_trio.errors import Worded

# Connections that the system takes before the server does; it has a bound of its own, too.
BACKLOG = 1024
# Of a socket in the file system: this user and the group, as of a proxy in front.
SOCKET_MODE = 0o660
ALPN = ("h2", "http/1.1")
# TLS 1.2 with forward secrecy and without what HTTP/2 forbids (RFC 9113, appendix A). Those of TLS
# 1.3 are always there.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@attrs.frozen
class Listening:
    """An open listener.

    Attributes:
        url: how to reach it, without a slash at the end.
        loopback: only this machine can.
        file: it is a socket in the file system.
    """

    listener: trio.SocketListener
    url: str
    loopback: bool
    file: bool


@asynccontextmanager
async def open_listeners(
    addresses: Iterable[Address], scheme: str
) -> AsyncGenerator[list[Listening]]:
    """Listen at each of these addresses, for the time of the block.

    Raises:
        ValueError: there is no such address.
        OSError: one is taken, or may not be used; it is named.
    """
    async with AsyncExitStack() as stack:
        found: list[Listening] = []
        for address in addresses:
            if address.path:
                found.append(await _at_path(address.path, stack))
                continue
            for listener in await _at_port(address):
                stack.push_async_callback(listener.aclose)
                name = listener.socket.getsockname()
                ip = ipaddress.ip_address(name[0].partition("%")[0])
                host = f"[{name[0]}]" if ip.version == 6 else name[0]
                url = f"{scheme}://{host}:{name[1]}"
                found.append(Listening(listener, url, ip.is_loopback, False))
        yield found


async def _at_port(address: Address) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except socket.gaierror as error:
        raise ValueError(f"--listen {address}: {error.strerror}") from None
    except OSError as error:
        raise OSError(error.errno, _why(error), f"--listen {address}") from error


def _why(error: OSError) -> Worded:
    """What is wrong with an address, and what to do."""
    text = error.strerror or str(error)
    follows = {
        errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
        errno.EACCES: "a port below 1024 is for root: choose another one, or put a proxy in front",
    }.get(error.errno or 0)
    return Worded(f"{text}: {follows}" if follows else text)


async def _at_path(path: str, stack: AsyncExitStack) -> Listening:
    path = str(await trio.Path(path).absolute())
    offer = listen_at(path, f".{os.path.basename(path)}.{os.getpid()}")
    stack.callback(offer.close)
    await trio.Path(path).chmod(SOCKET_MODE)
    offer.sock.listen(BACKLOG)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(offer.sock))
    return Listening(listener, f"unix:{path}", True, True)


# ---- TLS


class Certificate:
    """A certificate and its key, from files.

    Attributes:
        context: for connections that come now.

    Raises:
        ValueError: they are not a certificate and its key.
        OSError: one of them cannot be read; it is named.
    """

    context: ssl.SSLContext

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self.read()

    def read(self) -> None:
        """Read the files, anew too. What is wrong changes nothing.

        A context that is in use is not changed: a handshake could see half of it.
        """
        cert, key = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(list(ALPN))
        for path in self._files:
            with open(path, "rb"):  # an error of the next step names no file
                pass
        try:
            context.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            reason = (error.reason or "").replace("_", " ").lower()
            raise ValueError(
                f"--tls-cert {cert}, --tls-key {key}: they must be a certificate and its key, in "
                f"PEM and without a password ({reason})"
            ) from None
        self.context = context
