"""Waiting for what another process does: when to look, and for how many to look at once.

**One looks.** Among all who wait one looks, and the others wait for it. When nobody waits, nothing
is looked at.

**Polling**: a look every `seconds`. It needs nobody's help, so it is what is left where there are
no notifications: object stores, systems other than Linux, a limit that was reached.

**Notification**: a look when the watch tells of a change. What is to be looked at is watched before
each look, not after, so nothing falls in between. Three things are done about what a watch is:

- *It tells too often.* A busy writer changes something every 200 us; a look costs about as much.
  So there are `LOOK_SECONDS` from the end of a look to the next one at least, and what happens
  meanwhile is found by that one.
- *It may miss something.* A network file system does not tell what another machine did; the move
  of a directory above is no change of the directory. So there is a look every `recheck_seconds`
  even if nothing is told (never more often than every `seconds`, which may have been made long).
- *It may be deaf*, on a network file system, and then everything would be late. A recheck that
  finds something new is evidence of that; `TRUSTED` of them in a row, without one look between them
  that was rightly told of, end the trust: from then on this is polling.

An arming that fails (too many watches, say) means polling until the next look, which tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from danube_trio._core.disk import Watch
from danube_trio.errors import LogClosedError

log = logging.getLogger("danube_trio.follow")

# A look takes 0.1 to 0.3 ms, most of it in another thread. A guess at what nobody minds.
LOOK_SECONDS = 0.001
# A change can be found by a recheck that comes between the change and its notification, which are
# microseconds apart. Three in a row is no such coincidence.
TRUSTED = 3


class Poller:
    """Waiting for news.

    Args:
        look: looks once; says whether there was anything new.
        seconds: pause between two looks, as far as nothing is told.
        what: for the error of those who wait when it is closed.
        watch: tells of changes; it is closed with this. `look` must call `arm` first.
        recheck_seconds: between two looks when nothing was told.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[bool]],
        seconds: float,
        what: str,
        *,
        watch: Watch | None = None,
        recheck_seconds: float = 1.0,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._recheck_seconds = max(seconds, recheck_seconds)
        self._what = what
        self._watch = watch
        self._armed = False
        self._complained = False
        self._unannounced = 0
        self._looking = trio.Lock()
        self._looked_at = float("-inf")  # when the last look began
        self._seen_at = float("-inf")  # when it ended
        self._polled: trio.Event | None = None
        self._scope = trio.CancelScope()
        self._nap = trio.CancelScope()
        self.notifications = 0
        self.closed = False

    @property
    def by(self) -> Literal["notification", "polling"]:
        """How whoever waits now learns of news."""
        return "notification" if self._armed and self._watch is not None else "polling"

    def arm(self) -> None:
        """Be told of what changes from now on. Blocking: part of the look, off the event loop."""
        watch = self._watch
        if watch is None:
            return
        try:
            watch.arm()
        except (FileNotFoundError, NotADirectoryError):
            self._armed = False  # whoever looks now is told the same
        except OSError as error:
            self._armed = False
            if not self._complained and not self.closed:
                self._complained = True
                log.warning("looking every %g s instead: %s", self._seconds, error)
        else:
            self._armed = True

    async def look(self) -> bool:
        """Look now; says whether there was anything new."""
        async with self._looking:
            self._looked_at = trio.current_time()  # of a look that fails, too: no poll spins
            try:
                return await self._look()
            finally:
                self._seen_at = trio.current_time()
                # Who polls need not wait for what was seen just now, also if it failed after that.
                self._nap.cancel()

    async def wait(self, reached: Callable[[], bool]) -> None:
        """Look until it is reached. Raises LogClosedError on leaving, and what looking raises."""
        while not self.closed and not reached():
            if self._polled is not None:
                await self._polled.wait()  # somebody polls: what they see is for all
                continue
            self._polled = polled = trio.Event()
            try:
                with trio.CancelScope() as self._scope:
                    announced = False
                    with trio.CancelScope() as self._nap:
                        announced = await self._pause()
                    if not self._nap.cancelled_caught:
                        self._judge(announced, found=await self.look())
            finally:
                self._polled = None
                polled.set()
        self.check()

    async def _pause(self) -> bool:
        """Wait until it is time for a look; True if that is because something was told."""
        watch = self._watch
        if watch is None or not self._armed:
            await trio.sleep_until(self._looked_at + self._seconds)
            return False
        with trio.move_on_at(self._looked_at + self._recheck_seconds):
            await watch.wait_changed()
        if not watch.changed:
            return False
        self.notifications += 1
        await trio.sleep_until(self._seen_at + LOOK_SECONDS)
        return True

    def _judge(self, announced: bool, *, found: bool) -> None:
        """Trust the watch, or do not any more."""
        watch = self._watch
        if watch is None or not self._armed or not found:
            return
        self._unannounced = 0 if announced else self._unannounced + 1
        if self._unannounced == TRUSTED:
            log.warning(
                "this file system does not tell of changes: looking every %g s instead",
                self._seconds,
            )
            self._watch = None
            watch.close()

    def check(self) -> None:
        """Raise LogClosedError if it is closed."""
        if self.closed:
            raise LogClosedError(f"the {self._what} is closed: open another one to continue")

    def close(self) -> None:
        """Wake everybody who waits; they are told."""
        self.closed = True
        self._scope.cancel()
        if self._watch is not None:
            self._watch.close()
