"""What is asked for: the query of a request, read strictly. What is wrong with it is a 400."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Collection
from urllib.parse import parse_qsl

from danube_trio._core.numbers import number_in
from danube_trio._core.topic_names import topic_name
from danube_trio.http._asgi import Scope
from danube_trio.http._request import Refusal

MAX_QUERY_BYTES = 4096
# The longest text that is searched for.
MAX_TEXT = 256


class Query:
    """The fields of a query, each of which may be there once. Raises Refusal."""

    def __init__(self, scope: Scope) -> None:
        raw: bytes = scope.get("query_string", b"")
        if len(raw) > MAX_QUERY_BYTES:
            raise Refusal(414, f"a query has at most {MAX_QUERY_BYTES} bytes")
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
        except ValueError:
            raise Refusal(400, "the query is not UTF-8") from None
        self._fields = dict(pairs)
        if len(self._fields) != len(pairs):
            raise Refusal(400, "a field of the query is there twice")

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._fields

    def text(self, name: str, otherwise: str = "") -> str:
        """A text."""
        found = self._fields.get(name, otherwise)
        if len(found) > MAX_TEXT:
            raise Refusal(400, f"{name}: has more than {MAX_TEXT} characters")
        return found

    def one_of(self, name: str, allowed: Collection[str], otherwise: str) -> str:
        """One of these words."""
        found = self._fields.get(name, otherwise)
        if found not in allowed:
            raise Refusal(400, f"{name}: must be one of {', '.join(allowed)}")
        return found

    def number(self, name: str, otherwise: int | None = None) -> int:
        """A whole number, 0 or more; without `otherwise` it must be there."""
        text = self._fields.get(name)
        if text is None and otherwise is not None:
            return otherwise
        found = number_in(text or "")
        if found is None or found >= 1 << 63:
            raise Refusal(400, f"{name}: must be a whole number, 0 or more")
        return found

    def count(self, name: str, otherwise: int, most: int) -> int:
        """How many: 1 or more, and `most` if more are asked for."""
        return max(1, min(self.number(name, min(otherwise, most)), most))

    def time(self, name: str) -> float | None:
        """Seconds since 1970, or None."""
        text = self._fields.get(name)
        if text is None:
            return None
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not math.isfinite(found) or found < 0:
            raise Refusal(400, f"{name}: must be seconds since 1970")
        return found

    def topic(self) -> str:
        """The name of a topic, which must be there."""
        return checked_topic(self._fields.get("topic", ""))


def checked_topic(name: str) -> str:
    """A topic's whole name. Raises Refusal."""
    try:
        return topic_name(name)
    except ValueError as error:
        raise Refusal(400, str(error)) from None


def header(scope: Scope, name: bytes) -> bytes:
    """A header of the request; empty if it is not there."""
    return next((value for key, value in scope.get("headers", ()) if key.lower() == name), b"")


def is_known_host(scope: Scope, hosts: Collection[str]) -> bool:
    """Whether the request is for this machine by a name that nobody else can give it.

    Where nobody is asked who they are, a page of another site must not read what is here by having
    its own name lead to this machine. It cannot have an address for its name, nor localhost.
    """
    name = header(scope, b"host").decode("latin-1").rpartition("@")[2].lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in ("", "localhost") or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
