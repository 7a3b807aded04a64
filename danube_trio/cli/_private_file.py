"""Reading a file that nobody else may read."""

from __future__ import annotations

import os
import stat

# Of the owner alone; of root and a group, as secrets are often handed to a service.
OWN, ROOTS = 0o600, 0o640


def read_private(path: str, option: str, most_bytes: int) -> str:
    """The text of a file that is this user's alone, or root's and a group's.

    What is looked at is the file that is read, whatever the path leads to meanwhile.

    Args:
        option: that names it, for errors.
        most_bytes: more are refused.

    Raises:
        ValueError: others may read or change it, it is too large, or it is no text.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        _check(status, path, option)
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"{option} {path}: it has more than {most_bytes} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:  # it has the bytes in it
        pass
    raise ValueError(f"{option} {path}: it is no text in UTF-8")


def _check(status: os.stat_result, path: str, option: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{option} {path}: it belongs to another user: chown it to yours")
    allowed = ROOTS if status.st_uid == 0 else OWN
    if mode & 0o777 & ~allowed:
        raise ValueError(
            f"{option} {path}: others may read or change it (mode {mode:04o}): `chmod 600 {path}`"
        )
