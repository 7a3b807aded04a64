"""A topic that has a host: its state, and who uses it. `hosts` changes it."""

from __future__ import annotations

import copy
import enum
import errno
import logging

import attrs
import trio

from danube_trio._engine.log.wal import Wal
from danube_trio._engine.wait.housekeeping import housekeeping
from danube_trio.errors import DanubeError

log = logging.getLogger("danube_trio.storage")


class State(enum.Enum):
    """Of a host."""

    WAITING = "waiting"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"


@attrs.define(eq=False)
class Topic:
    """A topic that has a host.

    Attributes:
        pins: uses that are under way; waiting: that wait for it to open.
        used_at: when the last pin went (trio's clock).
        wanted: to be opened although nobody uses it.
        heir: gets the name when this one is gone.
        asked: an upload of everything below this offset was asked for.
        error: why it could not be opened.
        ready: it is open, or never will be; leave: it shall close; gone: it has.
    """

    name: str
    scope: trio.CancelScope
    state: State = State.WAITING
    wal: Wal | None = None
    pins: int = 0
    waiting: int = 0
    used_at: float = 0.0
    wanted: bool = False
    heir: Topic | None = None
    asked: int = 0
    error: Exception | None = None
    ready: trio.Event = attrs.Factory(trio.Event)
    leave: trio.Event = attrs.Factory(trio.Event)
    gone: trio.Event = attrs.Factory(trio.Event)

    @property
    def log(self) -> Wal:
        """The open log, for who holds a pin."""
        assert self.wal is not None
        return self.wal

    @property
    def idle(self) -> bool:
        """Whether nobody uses it. One that is being sealed waits for who does that."""
        return (
            self.state is State.OPEN
            and not (self.pins or self.waiting or self.log.phase == "sealed")
            and not self.log.open_readers
        )

    @property
    def in_use(self) -> bool:
        """Whether it is open, and somebody uses it."""
        return self.state is State.OPEN and not self.idle

    def check_idle(self) -> None:
        """Raise trio.BusyResourceError if somebody uses it."""
        if self.in_use:
            raise trio.BusyResourceError(
                f"topic {self.name!r} is in use here (calls and blocks: "
                f"{self.pins + self.waiting}, readers: {self.log.open_readers}): end them first"
            )


def another(error: Exception) -> Exception:
    """The same exception again, for one more caller: a traceback belongs to one of them.

    What cannot be copied is shared.
    """
    try:
        again = copy.copy(error)
    except Exception:
        return error
    again.__cause__ = error.__cause__
    again.__suppress_context__ = error.__suppress_context__
    return again.with_traceback(error.__traceback__)


def no_files_left(error: Exception) -> bool:
    """Whether the process, or the system, has no more open files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


async def ask_for_upload(wal: Wal, end: int) -> None:
    """Have everything below offset `end` uploaded; the log itself says why it is not."""
    try:
        with housekeeping():
            await wal.wait_uploaded(end)
    except DanubeError as error:
        log.debug("not uploaded, and the log says why: %s", error)
