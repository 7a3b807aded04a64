"""Who holds a log. It asks for a shared lock for a moment, which a program that opens the log in
exactly that moment would take for a holder; there is no other way to know that works everywhere."""

from __future__ import annotations

import contextlib

__all__ = ["find_holder"]

HOLDER_BYTES = 1024


def find_holder(path: str) -> str | None:
    """What the holder of this lock file says about itself; None if nobody holds it."""
    try:
        import fcntl
    except ImportError:  # there, nobody can hold one
        return None
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = (file.read(HOLDER_BYTES) or b"").decode(errors="replace")
            return " ".join(text.split()) or "another program"
    return None
