"""Standard output as other programs make it: full, non-blocking, unbuffered, gone.

What Python gives is not enough: with ``PYTHONUNBUFFERED`` a short write loses the rest, a
non-blocking descriptor that takes no more raises, and an error does not say where. Here each write
is looped until all is written or it fails for good, and what fails is called ``stdout``.

A reader that goes away is heard of by the next write only; who follows a log may have nothing to
write for days. So `wait_reader_gone` waits for what the system says of the descriptor.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from typing import Any, Final, cast

NAME: Final = "stdout"


class _Stdout(io.FileIO):
    """The descriptor, which takes a write as a whole."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += os.write(self.fileno(), view[done:])
            except BlockingIOError:
                select.select([], [self.fileno()], [])
            except OSError as error:
                error.filename = NAME
                raise
        return done


def name_stdout() -> None:
    """Let this process write to its standard output so, if it has one."""
    old = cast("io.TextIOWrapper", sys.stdout)
    try:
        raw = _Stdout(old.fileno(), "w", closefd=False)
    except (AttributeError, ValueError, OSError):  # none, or no file
        return
    # Unbuffered, Python itself puts the text straight on the raw file.
    buffer = cast("io.BufferedWriter", raw if old.write_through else io.BufferedWriter(raw))
    sys.stdout = io.TextIOWrapper(
        buffer,
        encoding=old.encoding,
        errors=old.errors,
        newline="\n",
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


async def wait_reader_gone() -> None:
    """Return when nobody reads stdout any more; never, where the system does not tell."""
    import trio  # here, because `--help` waits for this file

    with contextlib.suppress(AttributeError, ValueError, OSError):
        fd = sys.stdout.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            await trio.lowlevel.wait_readable(fd)
            poll = select.poll()
            poll.register(fd, 0)
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
                return
    await trio.sleep_forever()
