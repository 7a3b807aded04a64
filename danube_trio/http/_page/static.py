"""The static files of the page, read from the package once."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import attrs

from danube_trio.http._asgi import Send
from danube_trio.http._page.answers import Headers, answer

KINDS = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


@attrs.frozen
class StaticFile:
    """One file.

    Attributes:
        body: its bytes.
        tag: its entity tag: a hash of them.
        kind: its content type.
    """

    body: bytes
    tag: bytes
    kind: bytes


@cache
def static_files() -> dict[str, StaticFile]:
    """All files, by name."""
    found: dict[str, StaticFile] = {}
    for each in files("danube_trio.http").joinpath("page").iterdir():
        kind = KINDS.get(each.name.rpartition(".")[2])
        if kind is not None:
            body = each.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
            found[each.name] = StaticFile(body, tag, kind)
    return found


async def answer_file(send: Send, file: StaticFile, seen: bytes, *, head: bool) -> None:
    """Send a file, or, if a browser has seen it (``If-None-Match``), that it has not changed.

    Browsers ask each time: files of one version must not meet those of another.
    """
    about: Headers = [(b"etag", file.tag), (b"cache-control", b"no-cache")]
    tags = {tag.strip().removeprefix(b"W/") for tag in seen.split(b",")}
    if file.tag in tags or b"*" in tags:
        await answer(send, 304, b"", about, head=True)
        return
    await answer(send, 200, file.body, [(b"content-type", file.kind), *about], head=head)
