"""Opening a store by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from danube_trio._core.disk import Disk
from danube_trio._disk.real import RealDisk
from danube_trio.cloud._directory import DirectoryStore
from danube_trio.cloud._memory import MemoryStore
from danube_trio.cloud._options import StoreOptions
from danube_trio.errors import Argument, Worded, bad_argument

if TYPE_CHECKING:
    from danube_trio.cloud._obstore import ObstoreStore

OBJECT_STORES = ("s3://", "gs://", "az://")


def open_store(
    url: str, options: StoreOptions | None = None, *, disk: Disk | None = None, **more: object
) -> MemoryStore | DirectoryStore | ObstoreStore:
    """Return the store of a URL. Nothing is asked of it yet: `probe_store` does that.

    Close it when done, with `aclose` or as ``async with open_store(url) as store:``.

    Args:
        url: ``memory:``, a new store in memory; ``file:///absolute/path``;
            ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.
        options: how to reach an object store.
        disk: the file system of ``file://``; for tests, see `danube_trio.testing`.
        **more: fields of `StoreOptions`, which replace those of `options`.

    Raises:
        ValueError: a bad URL or option; the text names it.
        TypeError: the URL is not a str.
        ImportError: obstore, which object stores need, is not installed.
    """
    if not isinstance(url, str):
        raise TypeError(f"url={url!r} must be a str, got {type(url).__name__}")
    if url == "memory:":
        _refuse_options(url, options, more)
        return MemoryStore()
    if url.startswith("file://"):
        _refuse_options(url, options, more)
        path = unquote(url.removeprefix("file://"))
        if not path.startswith("/"):
            raise bad_argument("url", url, " must name an absolute path: file:///path")
        return DirectoryStore(path, disk if disk is not None else RealDisk())
    if not url.startswith(OBJECT_STORES):
        # What is before an @ may be a password, and errors end in log files.
        shown = Argument("url", "" if "@" in url else repr(url))
        known = f"{', '.join(OBJECT_STORES)}, file:///path, in small letters, or be memory:"
        raise ValueError(Worded(shown, f" must begin with one of {known}"))
    plain = attrs.asdict(options) if options is not None else {}
    merged = StoreOptions.from_plain({**plain, **more})
    return load_obstore_store()(url, merged)


def load_obstore_store() -> type[ObstoreStore]:
    """Import it only now: it needs a library that not everybody has."""
    try:
        from danube_trio.cloud._obstore import ObstoreStore
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "obstore":
            raise
        raise ImportError(
            "s3://, gs:// and az:// need the package obstore: pip install 'danube-trio[cloud]'"
        ) from error
    return ObstoreStore


def _refuse_options(url: str, options: StoreOptions | None, more: dict[str, object]) -> None:
    given = sorted({**(options.to_plain() if options is not None else {}), **more})
    if given:
        raise bad_argument("url", url, f" has no options, got {', '.join(given)}")
