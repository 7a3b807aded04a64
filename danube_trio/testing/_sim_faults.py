"""Operations of the simulated disk, and faults that make some of them fail."""

from __future__ import annotations

import errno
from typing import ClassVar

import attrs

# The names of operations, for `SimDisk.fail` and `Operation.name`.
OPERATIONS = frozenset(
    {
        *("allocate", "close", "create", "file_size", "free_bytes", "link", "list_dir", "lock"),
        *("make_dir", "open", "read", "remove_dir", "rename", "size", "sync_data", "sync_dir"),
        *("truncate", "unlink", "watch", "write"),
    }
)
# These can do their work in part, or claim to have done it.
_PARTIAL = frozenset({"allocate", "read", "write"})
_CAN_LIE = frozenset({"read", "write", "sync_data", "sync_dir"})


class ProcessKilledError(OSError):
    """The simulated process was killed: nothing that it does reaches the disk any more.

    An OSError (ESRCH), so that a log that is left behind ends the way it does when its disk fails.
    """

    def __init__(self, path: str) -> None:
        super().__init__(errno.ESRCH, "this process of the simulated disk was killed", path)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.filename,), self.__dict__ or None


@attrs.define(eq=False)
class Operation:
    """One call on a `SimDisk`.

    Attributes:
        name: one of `OPERATIONS`, or "write_file", "remove_tree" or "corrupt" for what a test did
            by itself.
        path: what it was called with; for a rename or link the target.
        position: where it reads or writes, or the new size; else 0.
        size_bytes: how much it reads or writes; else 0.
        number: 0 for the first one on this disk.
        error: the errno with which it failed, once it has.
    """

    name: str
    path: str
    position: int = 0
    size_bytes: int = 0
    number: int = -1
    error: int | None = None


@attrs.define(eq=False)
class CountedFault:
    """What the faults of all simulators have: they hit the `nth` operation that matches.

    Attributes:
        hits: how many operations it has hit so far.
    """

    KNOWN: ClassVar[frozenset[str]]

    operation: str | None
    nth: int
    sticky: bool
    hits: int = attrs.field(default=0, init=False)
    _seen: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self.operation is not None and self.operation not in self.KNOWN:
            known = ", ".join(sorted(self.KNOWN))
            raise ValueError(f"operation must be one of {known}; got {self.operation!r}")
        if self.nth < 1:
            raise ValueError(f"nth counts from 1, got {self.nth!r}")

    def is_turn(self) -> bool:
        """Count an operation that matches; say whether it is one to hit."""
        self._seen += 1
        return self._seen >= self.nth if self.sticky else self._seen == self.nth


@attrs.define(eq=False)
class Fault(CountedFault):
    """An injected fault; made by `SimDisk.fail`, which explains the fields.

    Attributes:
        hits: how many operations it has made fail so far.
    """

    KNOWN: ClassVar[frozenset[str]] = OPERATIONS

    error: int | None
    path_contains: str | None
    after: bool
    short: int | None
    _cancelled: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.short is not None and (self.operation not in _PARTIAL or self.short < 0):
            raise ValueError(
                f"short={self.short!r} is for 'read' and 'write', and 'allocate', in bytes"
            )
        if self.error is None and (self.operation not in _CAN_LIE or self.after):
            raise ValueError(
                f"error=None (a lie) is for {', '.join(sorted(_CAN_LIE))}, and not with after; "
                f"got operation {self.operation!r}"
            )
        if self.after and self.short is not None:
            raise ValueError("after=True does all of it: it does not go with short")

    def cancel(self) -> None:
        """End the fault: the disk is repaired."""
        self._cancelled = True

    def hit_by(self, operation: Operation) -> bool:
        """Count the operation; say whether it fails."""
        if (
            self._cancelled
            or self.operation not in (None, operation.name)
            or operation.name not in OPERATIONS
            or (self.path_contains is not None and self.path_contains not in operation.path)
        ):
            return False
        hit = self.is_turn()
        self.hits += hit
        return hit

    def exception(self, path: str) -> OSError:
        assert self.error is not None
        name = errno.errorcode.get(self.error, "error")
        return OSError(self.error, f"injected {name} on the simulated disk", path)
