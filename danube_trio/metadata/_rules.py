"""What every store asks of keys, values and transactions, so that a program can change the store.

The limits are those that etcd has by default; the other stores keep them too. A program that works
with one of them works with all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

MAX_KEY_BYTES = 4096  # a guess: etcd has no limit of its own, the formats of others have
MAX_TRANSACTION_BYTES = 1 << 20  # etcd refuses requests above 1.5 MiB
MAX_TRANSACTION_KEYS = 128  # etcd's --max-txn-ops, which counts expectations and changes apart
MAX_TTL = 1_000_000_000  # 31 years; etcd refuses what is nine times as much


@attrs.frozen
class Put:
    """A new value; `ttl` in seconds, or None."""

    key: str
    value: bytes
    ttl: float | None = None


@attrs.frozen
class Transaction:
    """A checked transaction: what is expected (revisions by key), and the changes."""

    expect: Mapping[str, int]
    puts: tuple[Put, ...]
    deletes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in memory and in a file."""
        size = sum(len(put.key) + len(put.value) + 32 for put in self.puts)
        return size + sum(len(key) + 32 for key in self.deletes)


def check_prefix(prefix: str, name: str = "prefix") -> bytes:
    """The UTF-8 bytes of a prefix; ValueError if no key can begin so."""
    if not isinstance(prefix, str) or not prefix.startswith("/") or "\0" in prefix:
        raise ValueError(f"{name}={prefix!r}: keys are text that begins with '/' and has no NUL")
    try:
        encoded = prefix.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}={prefix!r} has no UTF-8 form: {error.reason}") from error
    if len(encoded) > MAX_KEY_BYTES:
        raise ValueError(
            f"{name} has {len(encoded)} bytes of UTF-8 where at most {MAX_KEY_BYTES} are allowed: "
            f"{prefix[:50]!r}..."
        )
    return encoded


def check_key(key: str) -> bytes:
    """The UTF-8 bytes of a key; ValueError for a bad one."""
    encoded = check_prefix(key, "key")
    if encoded == b"/":
        raise ValueError("key='/' names nothing: a key is a path, like '/danube/topics/orders'")
    return encoded


def check_after(after: int | None) -> None:
    """ValueError unless it may be a revision."""
    if after is not None and (not isinstance(after, int) or after < 0):
        raise ValueError(f"after={after!r} is no revision: it is an int from 0 on, or None")


def check_ttl(ttl: float | None) -> None:
    """ValueError unless it may be a time to live."""
    if ttl is not None and not (isinstance(ttl, (int, float)) and 1 <= ttl <= MAX_TTL):
        raise ValueError(f"ttl={ttl!r} must be 1 to {MAX_TTL} seconds (None: it lasts)")


def transaction(
    expect: Mapping[str, int],
    *,
    put: Mapping[str, bytes] | None = None,
    delete: Iterable[str] = (),
    ttl: float | None = None,
) -> Transaction:
    """Check the arguments of a write. Raises ValueError or TypeError, naming what is wrong."""
    check_ttl(ttl)
    puts = tuple(Put(key, value, ttl) for key, value in (put or {}).items())
    if isinstance(delete, str):
        raise TypeError(f"delete={delete!r} is one key: give a list of keys")
    deletes = tuple(delete)
    size = 0
    for entry in puts:
        if not isinstance(entry.value, bytes):
            raise TypeError(f"the value of {entry.key!r} must be bytes, got {entry.value!r}")
        size += len(check_key(entry.key)) + len(entry.value)
    for key in deletes:
        size += len(check_key(key))
    keys = [entry.key for entry in puts] + list(deletes)
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is changed twice in one transaction")
    for key, revision in expect.items():
        check_key(key)
        if not isinstance(revision, int) or revision < 0:
            raise ValueError(f"expect[{key!r}]={revision!r} is no revision: an int from 0 on")
    for what, count in (("expectations", len(expect)), ("changes", len(keys))):
        if count > MAX_TRANSACTION_KEYS:
            raise ValueError(f"{count} {what} where at most {MAX_TRANSACTION_KEYS} are allowed")
    if size > MAX_TRANSACTION_BYTES:
        raise ValueError(
            f"keys and values of {size} bytes where at most {MAX_TRANSACTION_BYTES} are allowed "
            f"in one change: {', '.join(keys)[:200]}"
        )
    return Transaction(dict(expect), puts, deletes)
