"""Opening a store by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from danube_trio._core.disk import Disk
from danube_trio.cloud._directory import DirectoryStore
from danube_trio.cloud._memory import MemoryStore
from danube_trio.cloud._options import StoreOptions

if TYPE_CHECKING:
    from danube_trio.cloud._obstore import ObstoreStore

__all__ = ["open_store"]


def open_store(
    url: str,
    options: StoreOptions | None = None,
    *,
    disk: Disk | None = None,
    **more: object,
) -> MemoryStore | DirectoryStore | ObstoreStore:
    """Return the store of a URL. Nothing is asked of it yet: `probe_store` does that.

    Close it when done, with `aclose` or as ``async with open_store(url) as store:``.

    Args:
        url: ``memory:``, a new store in memory; ``file:///absolute/path``;
            ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.
        options: how to reach an object store.
        disk: the disk of ``file://``.
        **more: fields of `StoreOptions`, which replace those of `options`.

    Raises:
        ValueError: a bad URL or option; the text names it.
        ImportError: obstore, which object stores need, is not installed.
    """
    if url == "memory:":
        _refuse_options(url, options, more)
        return MemoryStore()
    if url.startswith("file://"):
        _refuse_options(url, options, more)
        path = unquote(url.removeprefix("file://"))
        if not path.startswith("/"):
            raise ValueError(f"url={url!r} must name an absolute path: file:///path")
        if disk is None:
            raise ValueError(f"url={url!r} needs a disk")
        return DirectoryStore(path, disk)
    plain = attrs.asdict(options) if options is not None else {}
    merged = StoreOptions.from_plain({**plain, **more})
    from danube_trio.cloud._obstore import ObstoreStore

    return ObstoreStore(url, merged)


def _refuse_options(url: str, options: StoreOptions | None, more: dict[str, object]) -> None:
    given = sorted({**(options.to_plain() if options is not None else {}), **more})
    if given:
        raise ValueError(f"url={url!r} has no options, got {', '.join(given)}")
