"""Operations of the simulated object store, and faults that make some of them fail."""

from __future__ import annotations

import random
from typing import ClassVar, Literal, get_args

import attrs

from danube_trio.testing._sim_faults import CountedFault

# The names of operations, for `SimStore.fail` and `StoreOperation.name`.
STORE_OPERATIONS = frozenset(
    {*("create", "delete", "get", "head", "list_children", "list_objects", "put", "swap"), "upload"}
)
WRITES = frozenset({"create", "delete", "put", "swap", "upload"})
_CONDITIONAL = frozenset({"create", "swap"})

StoreFaultKind = Literal[
    "unavailable", "reply_lost", "late", "denied", "hang", "hang_after",
    "false_conflict", "own_conflict",
]  # fmt: skip
_ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("unavailable", "denied", "hang", "reply_lost", "hang_after"), STORE_OPERATIONS
    ),
    "late": WRITES,
    **dict.fromkeys(("false_conflict", "own_conflict"), _CONDITIONAL),
}


@attrs.define(eq=False)
class StoreOperation:
    """One call on a `SimStore`.

    Attributes:
        name: one of `STORE_OPERATIONS`.
        key: its key; of a list the prefix.
        client: the name of the client that made it.
        number: 0 for the first one on these contents, by any client.
        error: the name of the exception with which it failed, once it has.
    """

    name: str
    key: str
    client: str = ""
    number: int = -1
    error: str | None = None


@attrs.define(eq=False)
class StoreFault(CountedFault):
    """An injected fault; made by `SimStore.fail` and `fail_sometimes`, which explain the fields.

    Attributes:
        hits: how many operations it has made fail so far.
    """

    KNOWN: ClassVar[frozenset[str]] = STORE_OPERATIONS

    kinds: tuple[StoreFaultKind, ...]
    key_contains: str | None
    late_by: int
    probability: float = 1.0
    rng: random.Random = attrs.field(factory=random.Random, repr=False)
    _cancelled: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        for kind in self.kinds:
            if kind not in _ALLOWED:
                raise ValueError(
                    f"kind must be one of {', '.join(get_args(StoreFaultKind))}; got {kind!r}"
                )
            if self.operation is not None and self.operation not in _ALLOWED[kind]:
                raise ValueError(f"a {self.operation!r} has no fault of the kind {kind!r}")
        if self.late_by < 1:
            raise ValueError(f"late_by counts operations from 1, got {self.late_by!r}")
        if not self.kinds or not 0 <= self.probability <= 1:
            raise ValueError(f"kinds={self.kinds!r}, probability={self.probability!r} mean nothing")

    def cancel(self) -> None:
        """End the fault: the store is repaired."""
        self._cancelled = True

    def kind_for(self, operation: StoreOperation) -> StoreFaultKind | None:
        """Count the operation; return how it fails, or None."""
        kinds: list[StoreFaultKind] = [k for k in self.kinds if operation.name in _ALLOWED[k]]
        if (
            self._cancelled
            or not kinds
            or self.operation not in (None, operation.name)
            or (self.key_contains is not None and self.key_contains not in operation.key)
        ):
            return None
        if not self.is_turn():
            return None
        if self.probability < 1 and self.rng.random() >= self.probability:
            return None
        self.hits += 1
        return kinds[0] if len(kinds) == 1 else self.rng.choice(kinds)
