"""The protocol's own paths: subscriptions, and the keys by which webhooks are verified.

===============================================  =======================================  ==========
request, below ``__ds/``                         who may                                  body
===============================================  =======================================  ==========
``PUT subscriptions/:id``                        admin of it; read of what it is told     JSON
``GET subscriptions/:id``                        read of it; streams are shown to who
                                                 may read them
``DELETE subscriptions/:id``                     admin of it
``POST subscriptions/:id/streams``               admin of it; read of them                JSON
``DELETE subscriptions/:id/streams/:path``       admin of it
``POST subscriptions/:id/claim``                 read of it, and of what is told          JSON
``POST subscriptions/:id/callback, ack,          who has the token of the wake            JSON
release``
``GET jwks.json``                                everybody: public keys
===============================================  =======================================  ==========

*Of it* is the path ``__ds/subscriptions/:id``. Who has the events of a wake stream written must be
able to write to it. A pattern is of streams to come, too: so who makes it must be able to read all
that begins with what is before its first star, and all that there are.

Tokens of wakes are no rights: the server's own `authenticate` is not asked for these paths
(`is_open`), as their ``Authorization`` header is not for it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

import attrs

from danube_trio._core.documents import parse
from danube_trio.http._keys import Grant, Keys
from danube_trio.http._names import CONTROL, canonical, is_control
from danube_trio.http._offsets import parse as parse_offset
from danube_trio.http._offsets import token
from danube_trio.http._patterns import canonical_pattern, literal_prefix
from danube_trio.http._request import Fault, Refusal, Request, Response, json_response
from danube_trio.http._service import Service
from danube_trio.http._subscription import (
    DEFAULT_LEASE_MS,
    MAX_LEASE_MS,
    MIN_LEASE_MS,
    Configuration,
    Subscription,
    Told,
)
from danube_trio.http._subscriptions import MAX_WORKER_BYTES, Subscriptions
from danube_trio.http._targets import target_of
from danube_trio.http._waking import acked, described
from danube_trio.http._webhooks import load_httpx

T = TypeVar("T")

# Of a body. A thousand paths fit, and nobody needs to be known to send one.
MAX_BODY_BYTES = 1 << 20
# They stand in URLs, keys and logs. A guess: a URL fits.
MAX_ID_BYTES = 256
MAX_DESCRIPTION_CHARACTERS = 1024
# How many streams an answer lists, those that were named first. The protocol has no pages, and so
# many are two megabytes.
MAX_LISTED = 10_000
# What comes before the path of a stream in one: the id, and the protocol's own words.
MORE_PATH_BYTES = 1024
TOKEN_VERBS = ("callback", "ack", "release")

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)


@attrs.frozen
class WebhookBody:
    """Of a PUT."""

    url: str


@attrs.frozen
class PutBody:
    """What a PUT says."""

    type: str
    pattern: str | None = None
    streams: list[str] | None = None
    webhook: WebhookBody | None = None
    wake_stream: str | None = None
    lease_ttl_ms: int | None = None
    description: str | None = None


@attrs.frozen
class StreamsBody:
    """What naming streams says."""

    streams: list[str]


@attrs.frozen
class ClaimBody:
    """What a claim says."""

    worker: str


@attrs.frozen
class Ack:
    """Of one stream."""

    stream: str
    offset: str


@attrs.frozen
class WakeBody:
    """What a callback, an ack or a release says."""

    wake_id: str
    generation: int
    acks: list[Ack] | None = None
    done: bool | None = None


def is_open(path: str) -> bool:
    """Whether nobody's rights are asked for a path: it is public, or a token of a wake is."""
    match path.split("/"):
        case [_, "jwks.json"]:
            return is_control(path)
        case [_, "subscriptions", _, verb]:
            return is_control(path) and verb in TOKEN_VERBS
        case _:
            return False


def path_limit(raw: bytes, limit: int) -> int:
    """How long a path may be that was sent like this.

    It may have that of a stream in it, encoded once more, with %25 for each of its %.
    """
    first = unquote_to_bytes(raw.partition(b"/")[0])
    return 3 * limit + MORE_PATH_BYTES if first == CONTROL.encode() else limit


class Control:
    """Answers requests for the protocol's own paths."""

    def __init__(self, service: Service, subscriptions: Subscriptions, keys: Keys) -> None:
        self._service = service
        self._subscriptions = subscriptions
        self._keys = keys

    async def answer(self, request: Request) -> Response:
        """Answer a request. Raises Refusal, and what the metadata store raises."""
        match request.path.split("/"):
            case [_, "jwks.json"]:
                return await _by_method(request, GET=self._jwks)
            case [_, "subscriptions", _]:
                return await _by_method(request, PUT=self._put, GET=self._get, DELETE=self._delete)
            case [_, "subscriptions", _, "streams"]:
                return await _by_method(request, POST=self._add)
            case [_, "subscriptions", _, "streams", *_]:
                return await _by_method(request, DELETE=self._remove)
            case [_, "subscriptions", _, "claim"]:
                return await _by_method(request, POST=self._claim)
            case [_, "subscriptions", _, "callback" | "ack"]:
                return await _by_method(request, POST=self._acknowledge)
            case [_, "subscriptions", _, "release"]:
                return await _by_method(request, POST=self._release)
            case _:
                raise Fault(404, "NOT_FOUND", "the protocol has no such path")

    # ---- keys

    async def _jwks(self, _: Request) -> Response:
        response = json_response(200, {"keys": self._keys.published()})
        headers = {
            "content-type": "application/jwk-set+json",
            "cache-control": "public, max-age=300",
        }
        return attrs.evolve(response, headers=headers)

    # ---- subscriptions

    async def _put(self, request: Request) -> Response:
        _demand(request, "admin", _own_path(request))
        id = _id(request)
        if len(id) > MAX_ID_BYTES:
            raise Refusal(414, f"the id has more than {MAX_ID_BYTES} bytes")
        wanted = self._configuration(_body(request, PutBody))
        self._check_rights(request, wanted)
        sub, new = await self._subscriptions.create(id, wanted, request.base_url)
        headers = {"location": request.base_url + sub.path}
        return json_response(201 if new else 200, await self._shown(request, sub), headers)

    def _configuration(self, body: PutBody) -> Configuration:
        """What is asked for, checked."""
        limit = self._service.config.max_path_bytes
        streams = tuple(sorted({self._path(path) for path in body.streams or ()}))
        pattern = canonical_pattern(body.pattern, limit) if body.pattern else None
        if pattern is None and not streams:
            raise Refusal(400, "a subscription needs a pattern, or streams")
        lease = DEFAULT_LEASE_MS if body.lease_ttl_ms is None else body.lease_ttl_ms
        if not MIN_LEASE_MS <= lease <= MAX_LEASE_MS:
            raise Refusal(400, f"lease_ttl_ms must be from {MIN_LEASE_MS} to {MAX_LEASE_MS}")
        description = body.description
        if description is not None and len(description) > MAX_DESCRIPTION_CHARACTERS:
            raise Refusal(400, f"description has over {MAX_DESCRIPTION_CHARACTERS} characters")
        url: str | None = None
        wake_stream: str | None = None
        if body.type == "webhook":
            url = self._url(body.webhook)
        elif body.type == "pull-wake":
            if body.wake_stream is None:
                raise Refusal(400, "pull-wake needs a wake_stream")
            wake_stream = self._path(body.wake_stream)
            if wake_stream in streams:
                raise Refusal(400, "the wake stream cannot be one of the streams")
        else:
            raise Refusal(400, "type must be webhook or pull-wake")
        return Configuration(body.type, pattern, streams, url, wake_stream, lease, description)

    def _url(self, webhook: WebhookBody | None) -> str:
        if webhook is None:
            raise Refusal(400, "webhook.url is missing")
        try:
            target_of(webhook.url, self._service.config.webhooks)
        except ValueError as error:
            raise Fault(400, "WEBHOOK_URL_REJECTED", str(error)) from None
        load_httpx()
        return webhook.url

    def _check_rights(self, request: Request, wanted: Configuration) -> None:
        for path in wanted.streams:
            _demand(request, "read", path)
        if wanted.pattern is not None:
            paths = [stream.path for stream in self._subscriptions.matching(wanted)]
            _demand_all(request, [literal_prefix(wanted.pattern), *paths])
        if wanted.wake_stream is not None:
            _demand(request, "write", wanted.wake_stream)

    async def _get(self, request: Request) -> Response:
        _demand(request, "read", _own_path(request))
        sub = await self._subscriptions.find(_id(request))
        return json_response(200, await self._shown(request, sub))

    async def _delete(self, request: Request) -> Response:
        _demand(request, "admin", _own_path(request))
        await self._subscriptions.delete(await self._subscriptions.find(_id(request)))
        return Response(204)

    async def _shown(self, request: Request, sub: Subscription) -> dict[str, object]:
        """A subscription, for who may see it."""
        configuration, state = sub.made.configuration, sub.state
        streams = (each for each in _listed(sub) if request.may("read", str(each["path"])))
        webhook: dict[str, object] | None = None
        if configuration.url is not None:
            signing = {
                "alg": "ed25519",
                "kid": (await self._keys.signer()).kid,
                "jwks_url": f"{sub.made.base_url}{CONTROL}/jwks.json",
            }
            webhook = {"url": configuration.url, "signing": signing}
        return {
            "id": sub.name,
            "subscription_id": sub.name,
            "type": configuration.type,
            "pattern": configuration.pattern,
            "streams": [*islice(streams, MAX_LISTED)],
            "webhook": webhook,
            "wake_stream": configuration.wake_stream,
            "lease_ttl_ms": configuration.lease_ttl_ms,
            "created_at": _time(sub.made.created_at),
            "status": sub.status,
            "description": configuration.description,
            "generation": state.generation,
            "holder": state.holder,
            "pending": len(sub.pending),
            "next_attempt_at": _time(state.next_attempt_at),
            "error": state.error,
        }

    # ---- named streams

    async def _add(self, request: Request) -> Response:
        _demand(request, "admin", _own_path(request))
        sub = await self._subscriptions.find(_id(request))
        paths = [self._path(path) for path in _body(request, StreamsBody).streams]
        for path in paths:
            _demand(request, "read", path)
            if path == sub.made.configuration.wake_stream:
                raise Refusal(400, "the wake stream cannot be one of the streams")
        await self._subscriptions.add(sub, paths)
        return Response(204)

    async def _remove(self, request: Request) -> Response:
        _demand(request, "admin", _own_path(request))
        sub = await self._subscriptions.find(_id(request))
        # The path of a stream stands in the path once more, with or without its slashes encoded.
        rest = request.path.split("/", 4)[4]
        path = canonical(unquote_to_bytes(rest), self._service.config.max_path_bytes)
        await self._subscriptions.remove(sub, path)
        return Response(204)

    # ---- wakes

    async def _claim(self, request: Request) -> Response:
        _demand(request, "read", _own_path(request))
        sub = await self._subscriptions.find(_id(request))
        if sub.is_webhook:
            raise Refusal(400, "a webhook's subscription is not claimed: it is called back")
        worker = _body(request, ClaimBody).worker
        if not worker.strip() or len(worker.encode()) > MAX_WORKER_BYTES:
            raise Refusal(400, f"worker must be a name of at most {MAX_WORKER_BYTES} bytes")

        def check(told: Sequence[Told]) -> None:
            _demand_all(request, [each.link.stream.path for each in told])

        state, told = await self._subscriptions.claim(sub, worker, check)
        found = {
            "wake_id": state.wake,
            "generation": state.generation,
            "token": self._keys.token(sub.made.uid, "claim", state.generation, state.wake),
            "streams": [described(each) for each in told],
            "lease_ttl_ms": sub.made.configuration.lease_ttl_ms,
        }
        return json_response(200, found)

    async def _acknowledge(self, request: Request) -> Response:
        sub, grant, body = await self._granted(request)
        acks = {self._path(each.stream): parse_offset(each.offset) for each in body.acks or ()}
        done = body.done is True
        next_wake = await self._subscriptions.acknowledge(sub, grant, acks, done=done)
        answer: dict[str, object] = {"ok": True, "next_wake": next_wake}
        if not done:
            answer["token"] = self._keys.token(grant.uid, grant.use, grant.generation, grant.wake)
        return json_response(200, answer)

    async def _release(self, request: Request) -> Response:
        sub, grant, _ = await self._granted(request)
        await self._subscriptions.release(sub, grant)
        return Response(204)

    async def _granted(self, request: Request) -> tuple[Subscription, Grant, WakeBody]:
        """The subscription, and what the token of a request is for."""
        found = _BEARER.fullmatch(request.headers.get("authorization", ""))
        grant = self._keys.grant(found[1]) if found is not None else None
        use = "callback" if request.path.endswith("/callback") else "claim"
        if grant is None or grant.use != use:
            raise _no_token()
        sub = await self._subscriptions.find(_id(request))
        if grant.uid != sub.made.uid:
            raise _no_token()
        body = _body(request, WakeBody)
        if (body.generation, body.wake_id) != (grant.generation, grant.wake):
            raise Fault(409, "FENCED")
        return sub, grant, body

    def _path(self, text: str) -> str:
        """The canonical path of a stream that is named in a body."""
        raw = text.strip("/").encode("utf-8", "surrogatepass")
        path = canonical(quote(raw, safe="/%").encode(), self._service.config.max_path_bytes)
        if is_control(path):
            raise Refusal(400, f"no stream is below {CONTROL}")
        return path


async def _by_method(
    request: Request, **methods: Callable[[Request], Awaitable[Response]]
) -> Response:
    found = methods.get(request.method)
    if found is None:
        fault = Fault(405, "METHOD_NOT_ALLOWED", f"this path knows {', '.join(methods)}")
        fault.headers["allow"] = ", ".join([*methods, "OPTIONS"])
        raise fault
    return await found(request)


def _id(request: Request) -> str:
    return request.path.split("/", 3)[2]


def _own_path(request: Request) -> str:
    """The path by which rights are asked."""
    return "/".join(request.path.split("/", 3)[:3])


def _demand(request: Request, action: str, path: str) -> None:
    if not request.may(action, path):
        raise Fault(403, "FORBIDDEN", f"you may not {action} {path}")


def _demand_all(request: Request, paths: Iterable[str]) -> None:
    """The same for streams whose names who asks need not know."""
    if not all(request.may("read", path) for path in paths):
        raise Fault(403, "FORBIDDEN", "you may not read all streams of this subscription")


def _no_token() -> Fault:
    fault = Fault(401, "TOKEN_INVALID", "the token is none of this subscription, or too old")
    fault.headers["www-authenticate"] = "Bearer"
    return fault


def _body(request: Request, kind: type[T]) -> T:
    try:
        return parse(request.body, kind, check=_check_lists)
    except ValueError as error:
        raise Refusal(400, f"the body is not what it should be: {error}") from None


def _check_lists(body: dict[str, object]) -> None:
    """A text is a list of its characters, too; here it is none."""
    for name in ("streams", "acks"):
        if not isinstance(body.get(name) or [], list):
            raise ValueError(f"{name} must be a list")


def _listed(sub: Subscription) -> Iterable[dict[str, object]]:
    """The streams of a subscription, those that were named first."""
    by_path = {link.stream.path: link for link in sub.links.values()}
    for path in sub.named:
        link = by_path.get(path)
        at = token(0) if link is None else acked(link.acked)
        yield {"path": path, "link_type": "explicit", "acked_offset": at}
    for path, link in by_path.items():
        if not link.explicit:
            yield {"path": path, "link_type": "glob", "acked_offset": acked(link.acked)}


def _time(seconds: float | None) -> str | None:
    """A moment as RFC 3339 has it, in milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
