"""What an ASGI server and its application say to each other, as far as this room needs it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from danube_trio.http._request import Rights

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# Says who asks, by what they may do; None: nobody who may come in.
Authenticate = Callable[[Scope], Rights | Awaitable[Rights | None] | None]


async def rights_of(authenticate: Authenticate, scope: Scope) -> Rights | None:
    """What who asks may do; None for nobody who may come in."""
    found = authenticate(scope)
    return await found if inspect.isawaitable(found) else found


async def until_gone(receive: Receive) -> None:
    """Wait until the client has gone. What more of a body comes is not wanted."""
    while (await receive())["type"] != "http.disconnect":
        pass
