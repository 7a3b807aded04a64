"""The life of a log: its phase, why it accepts nothing any more, and whether a caller was told.

A log is OPEN until it is left (CLOSING: accepts nothing, drains; then CLOSED), or until a write or
sync fails (BROKEN: accepts nothing, promises nothing, readers of durable records go on). BROKEN
never ends but by reopening. With an object store there are two more ways to accept nothing while
everything else goes on, for readers above all: SEALED (on purpose: all of it goes to the store, to
be opened elsewhere), and FENCED (another writer took the log over).

`TURNS` says which turn leads where; nothing else changes a phase. A turn that is not there changes
nothing: only the first failure counts, and whoever finds a fence while the log is being left finds
it too late.

**Who was told.** Records that were accepted and are lost, by a failure or a fence, are told once at
least: by a call of a user's that raises, or else by leaving. Asking why tells nobody. Tasks of the
log's own, and others that work on nobody's behalf, ask and swallow the answer: so `refusal` has no
effect, and who lets an error out to a user says so (`told`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from danube_trio.errors import (
    Advice,
    DanubeError,
    FencedError,
    LogBrokenError,
    LogClosedError,
    Worded,
)


class Phase(enum.Enum):
    """Where a log is in its life."""

    OPEN = "open"
    SEALED = "sealed"
    FENCED = "fenced"
    CLOSING = "closing"
    CLOSED = "closed"
    BROKEN = "broken"


class Turn(enum.Enum):
    """What happens to a log."""

    SEAL = "a user hands it over"
    FENCE = "another writer took it over"
    BREAK = "a write or sync failed"
    LEAVE = "its block is being left"
    END = "all its tasks are done"
    FORK = "this is a child of the process that opened it"


TURNS: Mapping[Phase, Mapping[Turn, Phase]] = {
    Phase.OPEN: {
        Turn.SEAL: Phase.SEALED,
        Turn.FENCE: Phase.FENCED,
        Turn.BREAK: Phase.BROKEN,
        Turn.LEAVE: Phase.CLOSING,
        Turn.FORK: Phase.CLOSED,
    },
    Phase.SEALED: {
        Turn.FENCE: Phase.FENCED,
        Turn.BREAK: Phase.BROKEN,
        Turn.LEAVE: Phase.CLOSING,
        Turn.FORK: Phase.CLOSED,
    },
    Phase.FENCED: {
        Turn.BREAK: Phase.BROKEN,
        Turn.LEAVE: Phase.CLOSING,
        Turn.FORK: Phase.CLOSED,
    },
    Phase.CLOSING: {
        Turn.BREAK: Phase.BROKEN,
        Turn.END: Phase.CLOSED,
        Turn.FORK: Phase.CLOSED,
    },
    Phase.CLOSED: {},
    Phase.BROKEN: {
        Turn.FORK: Phase.CLOSED,
    },
}


class Life:
    """One log's.

    Attributes:
        phase: for everybody to read; only `_take` changes it.
        running: the tasks have work: the log is not being left, and not broken.
        broken: a write or sync failed.
        failure: why the log is broken.
        fence: who took it over; stays when it is left.
    """

    __slots__ = (
        "_explained",
        "_failed",
        "_failure_told",
        "_fence_told",
        "_forked",
        "_told",
        "_vanished",
        "broken",
        "failure",
        "fence",
        "phase",
        "running",
    )

    def __init__(self) -> None:
        self.phase = Phase.OPEN
        self.running, self.broken = True, False
        self.failure: BaseException | None = None
        self.fence: FencedError | None = None
        self._explained = False
        self._failed = range(0)
        self._vanished = 0  # acknowledged, and in no file any more
        self._told: set[range] = set()
        self._failure_told = False
        self._fence_told = False
        self._forked = False

    # ---- turns

    def _take(self, turn: Turn) -> bool:
        """Whether it changed something."""
        phase = TURNS[self.phase].get(turn)
        if phase is None:
            return False
        self.phase = phase
        self.running = phase in (Phase.OPEN, Phase.SEALED, Phase.FENCED)
        self.broken = phase is Phase.BROKEN
        return True

    def seal(self) -> bool:
        """Nothing more is accepted, on purpose. Whether that is new."""
        return self._take(Turn.SEAL)

    def fenced(self, error: FencedError) -> bool:
        """Another writer took the log over. Whether that is new, and not too late."""
        if not self._take(Turn.FENCE):
            return False
        self.fence = error
        return True

    def break_(
        self,
        failure: BaseException,
        failed: range,
        *,
        vanished: int = 0,
        explained: bool = False,
    ) -> bool:
        """A write or sync failed: nothing is promised any more. Only the first failure counts.

        Args:
            failure: what failed.
            failed: the records that were accepted, and are not durable.
            vanished: so many records were acknowledged, and are in no file that has a name.
            explained: the failure itself says what to do.
        """
        if not self._take(Turn.BREAK):
            return False
        self.failure, self._explained = failure, explained
        self._failed, self._vanished = failed, vanished
        return True

    def leave(self) -> None:
        """The block is being left: what was accepted drains."""
        self._take(Turn.LEAVE)

    def end(self) -> None:
        """All tasks are done."""
        self._take(Turn.END)

    def fork(self) -> None:
        """This process is a child of the log's: it has none of its tasks."""
        self._forked = True
        self._take(Turn.FORK)

    # ---- what there is to say

    def refusal(self) -> DanubeError:
        """Why nothing is accepted any more; a new exception each time. Tells nobody."""
        if self.phase is Phase.BROKEN:
            text = f"the log is broken: {self.failure}"
            if not self._explained:
                text = Worded(
                    f"the log is broken ({self.failure!r}): what was not acknowledged has an "
                    f"unknown outcome; ",
                    Advice.MEND_DISK,
                )
            error = LogBrokenError(text)
            error.__cause__ = self.failure
            return error
        if self.phase is Phase.FENCED:
            assert self.fence is not None
            return FencedError(self.fence.epoch, self.fence.by)
        if self.phase is Phase.SEALED:
            return LogClosedError(
                "the log was sealed, to be opened elsewhere: open it again to append here"
            )
        if self._forked:
            return LogClosedError(
                "the log was opened before a fork and belongs to the parent process: "
                "open it after forking, or follow it with open_follower()"
            )
        return LogClosedError("the log is closed: open it again to continue")

    def told(self, error: BaseException, offsets: range = range(0)) -> None:
        """A call of a user's raises `error`; of records that it accepted, these are meant."""
        if isinstance(error, FencedError):
            self._fence_told = True
        elif isinstance(error, LogBrokenError):
            self._failure_told = True
            if offsets:
                self._told.add(offsets)
            self._vanished = 0

    @property
    def lost(self) -> int:
        """Accepted records that failed, and whose failure was delivered to nobody yet."""
        count = self._vanished
        seen = self._failed.start
        for offsets in sorted(self._told, key=lambda r: r.start):
            count += max(0, min(offsets.start, self._failed.stop) - seen)
            seen = max(seen, offsets.stop)
        return count + max(0, self._failed.stop - seen)

    @property
    def untold_failure(self) -> BaseException | None:
        """Why the log is broken, if it is, and no caller was told yet."""
        return None if self._failure_told else self.failure

    @property
    def untold_fence(self) -> FencedError | None:
        """The fence, if there is one of which no caller was told yet."""
        return None if self._fence_told else self.fence
