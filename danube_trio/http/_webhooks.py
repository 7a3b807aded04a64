"""Sending webhooks: one request, one answer, and nothing that follows from it.

The name is looked up, all of its addresses are checked, and the connection is made to one of these
(see `_targets`); the certificate is still that of the name. There is one request on a connection,
so none is ever sent over one that was opened for another name. No proxy of the environment is used,
as that would look the name up again, and no redirect is followed: a transport knows none of them.

An answer with 2xx has arrived; whether it says ``{"done": true}`` is looked up in it, unless it has
more than `ANSWER_BYTES`. What failed is of two kinds, and the difference is whether somebody may be
working: `NotDelivered.known`.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import trio

from danube_trio._core.plain import from_json
from danube_trio._version import __version__
from danube_trio.http._keys import INSTALL
from danube_trio.http._request import Refusal
from danube_trio.http._targets import Target, check_addresses

if TYPE_CHECKING:
    import httpx2

# An answer has a dozen bytes. What is longer says something else.
ANSWER_BYTES = 64 << 10
# What is not there within this is not there at all. A guess: three retransmissions.
CONNECT_SECONDS = 5.0
# A connection that cannot say goodbye is closed without.
CLOSE_SECONDS = 1.0
# Names that have more addresses are tried so far.
MAX_ADDRESSES = 4
# How many names are looked up at once: each takes a thread of those that all of trio shares.
LOOK_UPS = 8


class NotDelivered(Exception):
    """A webhook was not answered as it should be.

    Attributes:
        known: nothing came of it; else the receiver may be working on it.
    """

    def __init__(self, text: str, *, known: bool) -> None:
        super().__init__(text)
        self.known = known


def load_httpx() -> Any:
    """The HTTP client. Raises Refusal (501) if it is not installed."""
    try:
        import httpx2
    except ImportError:
        raise Refusal(501, f"webhooks need the package httpx2: {INSTALL}") from None
    return httpx2


class Webhooks:
    """Sends them. Belongs to a trio run."""

    def __init__(self) -> None:
        self._look_ups = trio.CapacityLimiter(LOOK_UPS)
        self._tls: ssl.SSLContext | None = None

    async def send(self, target: Target, body: bytes, signature: str) -> bool:
        """Send one; returns whether the answer says that all is done.

        Raises:
            NotDelivered: it was not answered with 2xx.
            Refusal: 501, a package is missing.
        """
        httpx = load_httpx()
        error = ""
        for address in await self._addresses(target):
            request = request_to(httpx, target, address, body, signature)
            try:
                return await self._send(httpx, target, request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                error = error or f"no connection to {target.authority}{_why(failed)}"
            except _errors(httpx) as failed:
                text = f"{target.authority} did not answer{_why(failed)}"
                raise NotDelivered(text, known=False) from failed
        raise NotDelivered(error, known=True)

    async def _addresses(self, target: Target) -> list[str]:
        """The addresses of its host, each of which it may be."""
        try:
            async with self._look_ups:
                found = await trio.socket.getaddrinfo(
                    target.host, target.port, type=trio.socket.SOCK_STREAM
                )
        except (OSError, UnicodeError) as error:  # also a name that is none
            text = f"{target.host} has no address{_why(error)}"
            raise NotDelivered(text, known=True) from error
        addresses = [*dict.fromkeys(str(address[0]) for *_, address in found)]
        try:
            check_addresses(target, addresses)
        except ValueError as error:
            raise NotDelivered(f"it was not sent: {error}", known=True) from error
        return addresses[:MAX_ADDRESSES]

    async def _send(self, httpx: Any, target: Target, request: httpx2.Request) -> bool:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        async with transport:
            response: httpx2.Response = await transport.handle_async_request(request)
            chunks = response.aiter_raw()
            try:
                if not 200 <= response.status_code < 300:
                    text = f"{target.authority} answered with {response.status_code}"
                    raise NotDelivered(text, known=True)
                return _says_done(await _whole(chunks))
            finally:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await response.aclose()
                    # Reading from what is closed ends all of the library's generators, which stand
                    # in each other; else the garbage collector finds an inner one, and warns.
                    with contextlib.suppress(*_errors(httpx)):
                        while await anext(chunks, None) is not None:
                            pass


def request_to(
    httpx: Any, target: Target, address: str, body: bytes, signature: str
) -> httpx2.Request:
    """The request to one address of a target."""
    host = f"[{address}]" if ":" in address else address
    request: httpx2.Request = httpx.Request(
        "POST",
        f"{target.scheme}://{host}:{target.port}{target.path}",
        headers={
            "host": target.authority,
            "content-type": "application/json",
            "webhook-signature": signature,
            "user-agent": f"danube-trio/{__version__}",
            "accept-encoding": "identity",
            "connection": "close",
        },
        content=body,
        extensions={"sni_hostname": target.host, "timeout": {"connect": CONNECT_SECONDS}},
    )
    return request


def _errors(httpx: Any) -> tuple[type[Exception], ...]:
    """What a connection that fails raises. The library lets some errors of trio through."""
    return (
        *(httpx.HTTPError, httpx.StreamError, OSError),
        *(trio.BrokenResourceError, trio.ClosedResourceError),
    )


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    """A body; nothing of one that is too long."""
    body = bytearray()
    while (piece := await anext(chunks, None)) is not None:
        body += piece
        if len(body) > ANSWER_BYTES:
            return b""
    return bytes(body)


def _why(error: BaseException | None) -> str:
    """What an error says, or the first one behind it that says something."""
    while error is not None and not str(error):
        error = error.__cause__ or error.__context__
    return "" if error is None else f": {error}"


def _says_done(body: bytes) -> bool:
    try:
        return from_json(body)["done"] is True
    except (ValueError, TypeError, KeyError, IndexError):
        return False  # it says something else, which means: later
