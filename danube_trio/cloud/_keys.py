"""What every store checks before it does anything: keys, prefixes, ranges, data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from danube_trio.errors import bad_argument

# One more than 900 bytes would still fit S3 and GCS (1024), less a store's own prefix.
MAX_KEY_BYTES = 900
# What XML cannot carry, and what some servers take for a slash.
_FORBIDDEN = frozenset(map(chr, (*range(32), 127, 0xFFFE, 0xFFFF))) | {"\\"}

Chunks = Callable[[], Iterator[bytes]]


def _fault_of(key: object) -> str | None:
    """Say what is wrong with a key, or None."""
    if not isinstance(key, str):
        return "must be a string"
    parts = key.split("/")
    if "" in parts:
        return "must not be empty, nor begin or end with a slash, nor have two in a row"
    if "." in parts or ".." in parts:
        return "must have no part . or .."
    if not _FORBIDDEN.isdisjoint(key):
        return "must have no control characters and no backslash"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "cannot be encoded as UTF-8"
    return f"has {size} bytes, the limit is {MAX_KEY_BYTES}" if size > MAX_KEY_BYTES else None


def is_key(key: str) -> bool:
    """Whether it is a key that `check_key` accepts."""
    return _fault_of(key) is None


def check_key(key: str) -> str:
    """Return the key. ValueError if a store must not have it."""
    fault = _fault_of(key)
    if fault is not None:
        raise ValueError(f"key={key!r} {fault}")
    return key


def check_prefix(prefix: str) -> str:
    """Return what the keys below a prefix begin with: itself and a slash; "" for all keys."""
    fault = _fault_of(prefix) if prefix != "" else None
    if fault is not None:
        raise bad_argument("prefix", prefix, f" {fault}")
    return prefix and f"{prefix}/"


def check_range(start: int, end: int | None) -> None:
    """ValueError unless `[start, end)` is a range."""
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"[{start}, {end}) is not a range of bytes")


def start_of(key: str, start: int, size: int) -> int:
    """Return `start`. ValueError if it is beyond the end of the object."""
    if start > size:
        raise ValueError(f"start={start} is beyond the end of {key!r}, which has {size} bytes")
    return start


def key_after(keys: Iterable[str], beginning: str, after: str) -> list[str]:
    """Return the keys with that beginning that are greater than `after`, sorted."""
    return sorted(key for key in keys if key.startswith(beginning) and key > after)


def safe_offset(beginning: str, after: str) -> str:
    """Return where a server may begin a list so that it leaves out no key greater than `after`.

    Some servers (seaweedfs) keep directories and compare keys part by part: for them ``a/1`` comes
    before ``a-``, and a list after ``a`` leaves out everything below ``a``. They differ from those
    that compare whole keys only where `after` has a character less than a slash, or names a
    directory. So it is cut before such a character, and made a little less in its last one: then
    the first difference from any key that is wanted is one on which both agree. "" means the
    beginning.
    """
    if not after.startswith(beginning):
        return ""
    rest = after[len(beginning) :]
    rest = rest[: next((i for i, char in enumerate(rest) if char < "/"), len(rest))]
    while rest and not "0" < rest[-1] < "\x7f":
        rest = rest[:-1]
    return f"{beginning}{rest[:-1]}{chr(ord(rest[-1]) - 1)}~" if rest else ""


def next_parts(keys: Iterable[str], beginning: str) -> list[str]:
    """Return the distinct next parts of those keys with that beginning that have more, sorted."""
    skip = len(beginning)
    rest = (key[skip:].split("/", 1) for key in keys if key.startswith(beginning))
    return sorted({parts[0] for parts in rest if len(parts) > 1})


def as_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """Return the data; a copy if it could be changed. TypeError for what are no bytes."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"an object is made of bytes, not of {type(data).__name__}")
