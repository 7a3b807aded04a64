"""What an error says to whoever works at a command line.

The library's errors speak to programmers: of arguments, and of functions to call. Here they are
about options and verbs. Where the facts are attributes, the text is made anew of them; `PHRASES`
and `OPTIONS` replace the rest, and a test looks that the library still says what they replace.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from danube_trio import errors

__all__ = ["OPTIONS", "PHRASES", "in_words", "reworded"]

# What the library says, and what is said instead. Each stands in some file of the package.
PHRASES: Final = {
    'then restore the range from a copy, or open with on_corruption="skip" or "truncate"': (
        "then restore the range from a copy, or see what `danube-trio repair` can do; "
        "`danube-trio replay --skip-corrupt` reads all that is whole"
    ),
    "use StartPosition.latest() to wait for new records": (
        "`danube-trio tail -f -n 0` waits for new records"
    ),
    "open the log with its store to read them": (
        "name the store with --store and the log in it with --topic or --prefix"
    ),
    "leave the log, free space or mend the disk, and open it again": (
        "mend what is wrong, look at the log with `danube-trio info`, and go on"
    ),
    "Open a new follower": "Run the command again",
    "open a new follower": "run the command again",
    "open it with its own topic_name or cloud.prefix, or choose another directory": (
        "name it with its own --topic or --prefix, or choose another directory"
    ),
    "give each its own directory and cloud.prefix, or name this topic": (
        "name it with its own --topic or --prefix, or choose another directory"
    ),
    "readers need on_corruption='skip', and get a gap there": (
        "replay and tail need --skip-corrupt (a program: on_corruption='skip'), and get a gap there"
    ),
    "set allow_http=True, or https": "say --store-option allow_http=true, or use https",
}
# Names of arguments, and the options that they come from.
OPTIONS: Final = {
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
_ARGUMENT = re.compile(rf"(?<![\w.-])({'|'.join(OPTIONS)})=(?=['\"\d])")
_DIRECTORY = re.compile(r"(?<![\w.-])dir=(?=['\"])")

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
            return reworded(str(error))


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
        return f"{place}: {reworded(str(error))}"
    why = cause.strerror or str(cause)
    step = _NEXT.get(cause.errno or 0, "mend the disk, and run the command again")
    return (
        f"{cause.filename or place}: {why}: the log is broken. What was not reported as appended "
        f"may be there or not: `danube-trio tail -n 1 --json {place}` shows where it ends; then "
        f"{step}"
    )


def _refused(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{reworded(error.strerror or '')}"
    if error.errno == errno.ENOENT:
        if "no log" in text:
            return (
                f"{text}: is that its directory? `danube-trio topics` lists the logs below one, "
                f"`danube-trio append` makes a new log"
            )
        if "?" in text:
            return text
        stored = "://" in str(error.filename or "")
        which = "--store, and --topic or --prefix" if stored else "path"
        return f"{text}: is that the right {which}?"
    follows = _NEXT.get(error.errno or 0)
    if error.filename == "stdout" and error.errno in (errno.ENOSPC, errno.EDQUOT):
        follows = f"it is full, and what was printed is cut; {follows}"
    return f"{text}: {follows}" if follows else text


def reworded(text: str) -> str:
    """The text with options where it has arguments."""
    for said, instead in PHRASES.items():
        text = text.replace(said, instead)
    text = text.replace("url must begin", "--store must begin")  # with a password, it is not shown
    return _DIRECTORY.sub("", _ARGUMENT.sub(lambda match: f"{OPTIONS[match[1]]} ", text))
