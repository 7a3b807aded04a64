"""Calls to an etcd cluster by its JSON gateway: endpoints, TLS, tokens, and what an answer means.

etcd serves its API as JSON over HTTP at its ordinary client port. That needs no generated code and
no event loop but trio's, and every call can be cancelled.

**Unknown outcomes.** A connection that was never made has sent nothing: any call goes on to the
next endpoint. After that only reads do; a write may have happened, and StoreUnavailableError says
so. Nothing that changes something is ever sent twice, but for two refusals in which etcd itself
says that it did nothing: a token that has run out, and a lease that has.

Every call has a limit of time, for a server that takes connections and says nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from danube_trio.errors import AccessDeniedError, StoreUnavailableError
from danube_trio.metadata._etcd_answer import (
    PERMISSION_DENIED,
    Json,
    NotSentError,
    SilentError,
    TokenError,
    answer_of,
    certificate_error,
    flag,
    number,
    parse,
    refusal,
    understood,
)
from danube_trio.metadata._etcd_config import EtcdConfig

if TYPE_CHECKING:
    import httpx2

CLOSE_SECONDS = 1.0  # a connection that cannot say goodbye is closed without
MAX_LINE_BYTES = 64 << 20  # etcd sends fragments of 2 MiB at most; base64 and JSON add to that


def _load_httpx() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise ImportError(
            "the etcd metadata store needs httpx2: pip install 'danube-trio[etcd]'"
        ) from error
    return httpx2


class Gateway:
    """A client of the cluster."""

    def __init__(self, config: EtcdConfig) -> None:
        self._httpx: Any = _load_httpx()
        self.config = config
        self._endpoints = [url.rstrip("/") for url in config.endpoints]
        self._current = 0
        self._token: str | None = None
        self._login = trio.Lock()
        self._scopes: set[trio.CancelScope] = set()  # of calls and watches that wait
        self._closed = False
        limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=16)
        transport = self._httpx.AsyncHTTPTransport(
            verify=config.tls(),
            trust_env=False,  # a proxy for the web is none for a cluster
            limits=limits,
            socket_options=_keepalive(),
        )
        self._client: httpx2.AsyncClient = self._httpx.AsyncClient(
            transport=transport, trust_env=False, follow_redirects=False
        )

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def http_errors(self) -> tuple[type[Exception], ...]:
        """What the HTTP library raises when a connection fails, or is closed."""
        httpx = self._httpx
        return httpx.HTTPError, httpx.StreamError, OSError

    async def aclose(self) -> None:
        """End all calls and watches, and the connections; idempotent."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._client.aclose()

    async def read(self, path: str, body: Json) -> Json:
        """A call that changes nothing: any endpoint that answers will do."""
        return await self._call(path, body, repeatable=True)

    async def write(self, path: str, body: Json) -> Json:
        """A call that changes something. StoreUnavailableError: nobody knows whether it did."""
        return await self._call(path, body, repeatable=False)

    async def _call(self, path: str, body: Json, *, repeatable: bool) -> Json:
        failure: StoreUnavailableError | None = None
        for _ in self._endpoints:
            endpoint = self._endpoints[self._current]
            try:
                return await self._with_token(endpoint, path, body)
            except StoreUnavailableError as error:
                self.next_endpoint(endpoint)
                if self._closed or not (repeatable or isinstance(error, NotSentError)):
                    raise
                failure = failure or error
        assert failure is not None
        raise StoreUnavailableError(*failure.args) from failure.__cause__

    def next_endpoint(self, failed: str) -> None:
        """Turn away from an endpoint, unless somebody else has already."""
        if self._endpoints[self._current] == failed:
            self._current = (self._current + 1) % len(self._endpoints)

    async def _with_token(self, endpoint: str, path: str, body: Json) -> Json:
        token = await self.token(endpoint)
        try:
            return await self._post(endpoint, path, body, token)
        except TokenError:
            self.forget(token)
        try:
            return await self._post(endpoint, path, body, await self.token(endpoint))
        except TokenError as error:
            raise AccessDeniedError(*error.args) from error

    async def token(self, endpoint: str) -> str | None:
        """The token to send, from a login if there is none yet; None without authentication."""
        config = self.config
        if config.username is None:
            return None
        async with self._login:
            if self._token is None:
                body = {"name": config.username, "password": config.password}
                try:
                    answer = await self._post(endpoint, "/v3/auth/authenticate", body, None)
                except StoreUnavailableError as error:
                    if "authentication is not enabled" in str(error):
                        return None
                    # A login that failed has done nothing of what was asked for.
                    raise NotSentError(*error.args) from error.__cause__
                with understood(endpoint):
                    self._token = _token_of(answer)
            return self._token

    def forget(self, token: str | None) -> None:
        """This token has run out."""
        if self._token == token:
            self._token = None

    @contextlib.contextmanager
    def _waiting(self, endpoint: str, seconds: float) -> Generator[None]:
        """For a wait that ends with the time, or with `aclose`. Goes on behind it: time is up."""
        self._check_open()
        with trio.move_on_after(seconds) as scope:
            self._scopes.add(scope)
            try:
                yield
            except self.http_errors as error:
                self._raise(endpoint, error)
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:  # an answer that came before `aclose` counts
            self._check_open()

    async def _post(self, endpoint: str, path: str, body: Json, token: str | None) -> Json:
        config, httpx = self.config, self._httpx
        timeout = httpx.Timeout(config.request_timeout, connect=config.connect_timeout)
        headers = {"Authorization": token} if token else {}
        with self._waiting(endpoint, config.connect_timeout + config.request_timeout):
            response = await self._client.post(
                endpoint + path, json=body, headers=headers, timeout=timeout
            )
            return answer_of(endpoint, response)
        raise StoreUnavailableError(
            f"etcd at {endpoint} did not answer in {config.request_timeout} s; "
            f"whether a change happened is not known"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the etcd client was closed; open another one")

    def _raise(self, endpoint: str, error: BaseException) -> NoReturn:
        text = f"etcd at {endpoint}: {type(error).__name__} {error}".rstrip()
        if (refused := certificate_error(error)) is not None:
            raise AccessDeniedError(f"{text} ({refused})") from error
        httpx = self._httpx
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
            raise NotSentError(f"{text}; nothing was done") from error
        raise StoreUnavailableError(f"{text}; whether a change happened is not known") from error

    async def lines(self, path: str, body: Json) -> Lines:
        """Begin a call that is answered line by line. Raises like `read`, but tries once."""
        endpoint = self._endpoints[self._current]
        try:
            token = await self.token(endpoint)
            try:
                return await self._begin(endpoint, path, body, token)
            except TokenError as error:
                self.forget(token)
                raise StoreUnavailableError(*error.args) from error
        except StoreUnavailableError:
            self.next_endpoint(endpoint)
            raise

    async def _begin(self, endpoint: str, path: str, body: Json, token: str | None) -> Lines:
        config, httpx = self.config, self._httpx
        headers = {"Grpc-Metadata-hasleader": "true"}  # a member that lost its leader says so
        if token:
            headers["Authorization"] = token
        timeout = httpx.Timeout(None, connect=config.connect_timeout)
        request = self._client.build_request(
            "POST", endpoint + path, json=body, headers=headers, timeout=timeout
        )
        with self._waiting(endpoint, config.connect_timeout + config.request_timeout):
            response = await self._client.send(request, stream=True)
            if response.status_code != 200:
                await response.aread()
                answer_of(endpoint, response)
            return Lines(self, endpoint, token, response)
        raise StoreUnavailableError(f"etcd at {endpoint} did not begin to answer")

    async def next_chunk(self, lines: Lines, chunks: AsyncGenerator[bytes]) -> bytes | None:
        """More bytes of an answer; None when it has ended."""
        with self._waiting(lines.endpoint, self.config.watch_silence):
            return await anext(chunks, None)
        raise SilentError(f"etcd at {lines.endpoint} was silent for {self.config.watch_silence} s")


class Lines:
    """An answer that comes line by line, each of them a JSON object.

    After any exception, Cancelled included, it is over: call `aclose`.
    """

    def __init__(
        self, gateway: Gateway, endpoint: str, token: str | None, response: httpx2.Response
    ) -> None:
        self.endpoint = endpoint
        self._gateway = gateway
        self._token = token
        self._response = response
        self._chunks = response.aiter_raw()
        self._buffer = bytearray()

    async def next(self) -> Json | None:
        """The next object; None when the answer has ended."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            chunk = await self._gateway.next_chunk(self, self._chunks)
            if chunk is None:
                return None
            self._buffer += chunk
            if len(self._buffer) > MAX_LINE_BYTES:
                raise StoreUnavailableError(f"etcd at {self.endpoint}: a line has no end")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = parse(self.endpoint, line)
        with understood(self.endpoint):
            error: Json = message.get("error") or {}
            result: Json = message.get("result") or {}
            code = number(error.get("grpc_code") or error.get("code") or 0)
            ended = flag(result.get("canceled", False))
            ended = ended and not number(result.get("compact_revision", 0))
            reason = str(error.get("message") if error else result.get("cancel_reason"))[:1000]
        if error:
            self._fail(code, reason)
        if ended:
            denied = "permission denied" in reason.lower()
            self._fail(PERMISSION_DENIED if denied else 0, reason)
        return result

    def _fail(self, code: int, reason: str) -> NoReturn:
        error = refusal(self.endpoint, code, reason)
        if isinstance(error, TokenError):
            self._gateway.forget(self._token)
            raise StoreUnavailableError(*error.args)
        raise error

    async def aclose(self) -> None:
        """End it, and its connection; idempotent."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._response.aclose()
            # The library's generators stand in each other, and closing the outer one leaves an
            # inner one to the garbage collector, which warns. Reading from what is closed ends all.
            with contextlib.suppress(*self._gateway.http_errors):
                while await anext(self._chunks, None) is not None:
                    pass


def _token_of(answer: Json) -> str:
    token = answer["token"]
    if not (isinstance(token, str) and token.isascii() and token.isprintable() and token):
        raise ValueError("the token is no text that a header can have")
    return token


def _keepalive() -> list[tuple[int, int, int]]:
    socket = trio.socket
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
