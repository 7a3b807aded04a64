"""What an error says to whoever works at a command line.

The library's errors speak to programmers: of arguments, and of functions to call. Here they are
about options and verbs. Where the facts are attributes, the text is made anew of them; the others
are `Worded`: they know what in their text is an argument, and what is advice.
"""

from __future__ import annotations

import errno
from typing import Final

from danube_trio import errors
from danube_trio.errors import Advice, Argument, Worded

ADVICE: Final = {
    Advice.MEND_OR_SKIP: (
        "Copy the directory, look at it with `danube-trio verify`, then restore the range from a "
        "copy, or see what `danube-trio repair` can do; `danube-trio replay --skip-corrupt` reads "
        "all that is whole"
    ),
    Advice.FOLLOW_AGAIN: "Run the command again",
    Advice.COMPARE: (
        "What was read last may be gone, and other records may have these offsets now: run the "
        "command again, and compare before you go on"
    ),
    Advice.MEND_DISK: ("mend what is wrong, look at the log with `danube-trio info`, and go on"),
    Advice.WAIT_AT_END: "`danube-trio tail -f -n 0` waits for new records",
    Advice.WITH_STORE: "name the store with --store and the log in it with --topic or --prefix",
    Advice.OWN_PLACE: "name it with its own --topic or --prefix, or choose another directory",
    Advice.OWN_TOPIC: "name it with its own --topic or --prefix, or choose another directory",
    Advice.ALLOW_GAPS: (
        "replay and tail need --skip-corrupt (a program: on_corruption='skip'), and get a gap there"
    ),
    Advice.ENCRYPT: "say --store-option allow_http=true, or use https",
    Advice.FIND_LOG: (
        ": is that its directory? `danube-trio topics` lists the logs below one, "
        "`danube-trio append` makes a new log"
    ),
}
# Names of arguments, and the options that they come from; of a directory, the path alone is said.
OPTIONS: Final = {
    "dir": "",
    "file_name": "--file-name",
    "codec": "--codec",
    "offset": "--from",
    "until_offset": "--until",
    "until_time": "--until",
    "url": "--store",
    "topic": "--topic",
    "topic_name": "--topic",
    "prefix": "--prefix",
    "endpoint": "--store-option endpoint",
}

# What to do about it, where it is the operating system that refuses.
_NEXT: Final = {
    errno.ENOSPC: "free some space, and run the command again",
    errno.EDQUOT: "free some space, and run the command again",
    errno.EROFS: "the file system is mounted read-only; replay, tail, info and verify work there",
    errno.EACCES: "run it as the owner of the log, or change the permissions",
    errno.EPERM: "run it as the owner of the log, or change the permissions",
    errno.ENOTDIR: "name the directory that holds the log",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def in_words(error: BaseException, directory: str | None = None) -> str:
    """One line: what is wrong, with which file, and what to do next.

    `directory` is that of the log, for errors that do not know it.
    """
    match error:
        case errors.LogBrokenError():
            return _broken(error, directory)
        case errors.LogLockedError():
            return _locked(error)
        case errors.OffsetTrimmedError():
            return (
                f"offset {error.offset} was trimmed: the log begins at {error.start_offset} now; "
                f"read on with --from {error.start_offset}, or --from earliest"
            )
        case errors.MessageTooLargeError():
            return (
                f"a record of {error.size_bytes} bytes is larger than the limit of "
                f"{error.limit_bytes}: split it"
            )
        case errors.FencedError():
            return f"the writer of epoch {error.epoch} was fenced by {error.by}: go on there"
        case OSError() if error.strerror:
            return _refused(error)
        case _:
            return _said(error)


def _locked(error: errors.LogLockedError) -> str:
    holder = error.holder.strip() or "another program"
    return (
        f"{error.path}: the log is locked by {holder}: stop that first; meanwhile replay, tail, "
        f"info and verify work"
    )


def _broken(error: errors.LogBrokenError, directory: str | None) -> str:
    cause = error.__cause__
    place = directory or "the log"
    if not isinstance(cause, OSError):
        return f"{place}: {_said(error)}"
    why = cause.strerror or str(cause)
    step = _NEXT.get(cause.errno or 0, "mend the disk, and run the command again")
    return (
        f"{cause.filename or place}: {why}: the log is broken. What was not reported as appended "
        f"may be there or not: `danube-trio tail -n 1 --json {place}` shows where it ends; then "
        f"{step}"
    )


def _refused(error: OSError) -> str:
    text = f"{error.filename}: " if error.filename else ""
    text += reworded(error.strerror or "")
    if isinstance(error.strerror, Worded):  # it says all there is
        return text
    if error.errno == errno.ENOENT:
        stored = "://" in str(error.filename or "")
        which = "--store, and --topic or --prefix" if stored else "path"
        return f"{text}: is that the right {which}?"
    follows = _NEXT.get(error.errno or 0)
    if error.filename == "stdout" and error.errno in (errno.ENOSPC, errno.EDQUOT):
        follows = f"it is full, and what was printed is cut; {follows}"
    return f"{text}: {follows}" if follows else text


def _said(error: BaseException) -> str:
    text = error.args[0] if error.args else ""
    return reworded(text) if isinstance(text, Worded) else str(error)


def reworded(text: str) -> str:
    """The text with options where it has arguments, and with advice for a command line."""
    if not isinstance(text, Worded):
        return text
    return "".join(map(_part, text.parts))


def _part(part: str | Argument) -> str:
    match part:
        case Advice():
            return ADVICE[part]
        case Argument() if part.name in OPTIONS:
            return f"{OPTIONS[part.name]} {part.shown}".strip()
        case _:
            return str(part)
