"""From a request to an answer: which part of the protocol it is, and what becomes of errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from danube_trio.errors import CorruptDataError, DanubeError
from danube_trio.http._append import append
from danube_trio.http._create import create
from danube_trio.http._live import long_poll, sse
from danube_trio.http._names import is_control
from danube_trio.http._read import catch_up, delete, head, one_value
from danube_trio.http._request import Refusal, Request, Response, fault_of, refusal_of
from danube_trio.http._service import Service

log = logging.getLogger("danube_trio.http")

Answer = Callable[[Service, Request], Awaitable[Response]]


async def _get(service: Service, request: Request) -> Response:
    live = one_value(request, "live")
    if live is None:
        return await catch_up(service, request)
    if live not in LIVE:
        raise Refusal(400, f"live may be one of {', '.join(LIVE)}")
    return await LIVE[live](service, request)


LIVE: dict[str, Answer] = {"long-poll": long_poll, "sse": sse}
METHODS: dict[str, tuple[str, Answer]] = {
    "GET": ("read", _get),
    "HEAD": ("read", head),
    "PUT": ("write", create),
    "POST": ("write", append),
    "DELETE": ("write", delete),
}
ALLOWED = ", ".join([*METHODS, "OPTIONS"])


def waits(request: Request) -> bool:
    """Whether the answer may take long: somebody must look whether the client is still there."""
    return request.method == "GET" and "live" in request.query


async def answer(service: Service, request: Request) -> Response:
    """The answer to a request, in the trio run of the storage. Raises nothing but bugs."""
    try:
        return await _answer(service, request)
    except Refusal as error:
        refusal = error
    except DanubeError as error:
        level = logging.ERROR if isinstance(error, CorruptDataError) else logging.WARNING
        log.log(level, "%s %s: %s", request.method, request.path, error)
        refusal = refusal_of(error)
    except OSError:
        log.exception("%s %s", request.method, request.path)
        refusal = Refusal(503, "the disk has an error: see the server's own log")
    return (fault_of(refusal) if is_control(request.path) else refusal).response()


async def _answer(service: Service, request: Request) -> Response:
    if is_control(request.path):
        return await service.control(request)
    found = METHODS.get(request.method)
    if found is None:
        raise Refusal(405, f"a stream knows {ALLOWED}", {"allow": ALLOWED})
    action, method = found
    if not request.may(action, request.path):
        raise Refusal(403, f"you may not {action} this stream")
    return await method(service, request)
