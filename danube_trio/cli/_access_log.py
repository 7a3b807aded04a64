"""The access log of a server: a line of JSON for each request that has ended.

A line is put together at once, and written by a thread: a slow disk, or a terminal that is stopped,
holds no request up. What cannot be written in time is dropped beyond `MOST_LINES`, and counted: the
next line that is written says so.
"""

from __future__ import annotations

import json
import select
import sys
from io import FileIO
from typing import TYPE_CHECKING, Any

import attrs
import trio

from danube_trio.cli._say import complain
from danube_trio.cli._times import time_text

if TYPE_CHECKING:
    from danube_trio.http import Access

STDERR = "-"
# A second of a busy server, a few MiB; a guess.
MOST_LINES = 10_000
# How long the end waits for a disk, or for whoever reads stderr; a guess.
LAST_SECONDS = 5.0


class AccessLog:
    """Takes what has ended, and writes it.

    Args:
        path: of a file, which is appended to; `STDERR` is that.

    Raises:
        OSError: it cannot be opened.
        ValueError: stderr is closed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = self._open()
        self._lines: list[str] = []
        self._dropped = 0
        self._failed = False
        self._anew = False
        self._wanted = trio.Event()
        self._limiter = trio.CapacityLimiter(1)

    def _open(self) -> FileIO:
        # Without a buffer there is no lock, which a thread that is stuck would keep for ever.
        if self._path != STDERR:
            return FileIO(self._path, "ab")
        if sys.stderr is None:
            raise ValueError("--access-log -: stderr is closed")
        return FileIO(sys.stderr.fileno(), "wb", closefd=False)

    def __call__(self, access: Access) -> None:
        """Take a request that has ended."""
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(line_of(access))
        self._wanted.set()

    def reopen(self) -> None:
        """Close the file and open it by its name anew: the old one was moved away."""
        self._anew = True
        self._wanted.set()

    async def run(self) -> None:
        """Write until it is cancelled, and then what is left."""
        try:
            while True:
                await self._wanted.wait()
                await self._write()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
                await self._write()
                self._file.close()

    async def _write(self) -> None:
        self._wanted = trio.Event()
        lines, self._lines = self._lines, []
        if self._dropped:
            lines.append(json.dumps({"time": None, "dropped": self._dropped}) + "\n")
            self._dropped = 0
        anew, self._anew = self._anew and self._path != STDERR, False
        try:
            # A thread that is stuck is left behind; the next one waits for it.
            await trio.to_thread.run_sync(
                self._write_now,
                "".join(lines).encode(),
                anew,
                limiter=self._limiter,
                abandon_on_cancel=True,
            )
        except OSError as error:
            if not self._failed:  # once, and not for each request
                complain(f"--access-log {self._path}: {error.strerror}: lines are lost")
            self._failed = True
        else:
            self._failed = False

    def _write_now(self, data: bytes, anew: bool) -> None:
        if anew:
            file = self._open()
            self._file.close()
            self._file = file
        while data:
            written = self._file.write(data)
            if written is None:  # it does not block, and takes no more now
                select.select([], [self._file], [])
            data = data[written or 0 :]


def line_of(access: Access) -> str:
    """The line of a request. Escaped: a terminal obeys nothing of it."""
    fields: dict[str, Any] = attrs.asdict(access)
    fields["time"] = time_text(int(access.time * 1e6))
    fields["seconds"] = round(access.seconds, 6)
    return json.dumps(fields) + "\n"
