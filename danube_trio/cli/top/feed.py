"""The other end of a program's offer to be watched: finding it, and reading what it says.

Everything here is blocking and plain, because there is nothing else to do meanwhile. What a program
says is believed as far as it can be understood: fields may be missing or unknown.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, cast

import attrs

from danube_trio._core.plain import from_json
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder
from danube_trio._engine.watch.socket import dial, is_socket
from danube_trio.cli._say import complain
from danube_trio.errors import UnsupportedFormatError

SCHEMA = 1
SUFFIX = ".watch"
# For a program that is busy, or stopped; beside the time between two snapshots.
PATIENCE_SECONDS = 10.0
# The longest line, so that a program gone mad fills no memory: a thousand topics have 300 KB.
MAX_LINE_BYTES = 64 << 20
# Directories below a root that are looked into. A guess.
MAX_DIRECTORIES = 100_000

HOW = "the program must open it with WalConfig(watch=True), or StorageConfig(watch=True)"


class NotOfferedError(ValueError):
    """There is nothing to watch there; the text says why, and what would help."""


@attrs.frozen
class Place:
    """Where something is offered: a socket, and the topic that is asked for there."""

    path: str
    topic: str | None = None


class Feed:
    """A connection to an offer.

    Raises OSError: ECONNREFUSED, the program is gone; TimeoutError, it does not answer;
    NotOfferedError for what it refuses; UnsupportedFormatError if it speaks a later schema.

    Attributes:
        hello: what the program says about itself.
        ending: why it says no more, "" if it just went.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ending = ""
        self._socket = dial(place.path, PATIENCE_SECONDS)
        self._lines = self._socket.makefile("rb")
        try:
            try:
                self.hello = self._read() or {}
            except NotOfferedError as error:  # before it was asked: it has no time
                raise OSError(errno.EBUSY, str(error)) from None
            schema = self.hello.get("schema")
            if isinstance(schema, int) and schema > SCHEMA:
                version = f"its program has version {self.hello.get('version')}"
                raise UnsupportedFormatError(
                    place.path, f"{version}, whose statistics have another form", "Use that version"
                )
        except BaseException:
            self.close()
            raise

    def ask(self, every: float, count: int | None) -> None:
        """Ask for snapshots, so many seconds apart."""
        self._socket.settimeout(every + PATIENCE_SECONDS)
        request = {"every": every, "count": count, "topic": self.place.topic}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # what it says about that is still to be read

    def read(self) -> dict[str, Any] | None:
        """The next snapshot, or None when there are no more."""
        while (line := self._read()) is not None:
            if "statistics" in line:
                return line
        return None

    def _read(self) -> dict[str, Any] | None:
        try:
            data = self._lines.readline(MAX_LINE_BYTES)
        except TimeoutError:
            text = "the program does not answer: it is stopped, or very busy"
            raise TimeoutError(errno.ETIMEDOUT, text, self.place.path) from None
        except ConnectionResetError:
            data = b""
        if len(data) >= MAX_LINE_BYTES:
            raise OSError(errno.EMSGSIZE, "the program says too much", self.place.path)
        if not data.endswith(b"\n"):
            return None  # it was killed in the middle of a line, or before one
        try:
            found = from_json(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise OSError(errno.EPROTO, "the program says what is no statistics", self.place.path)
        line = cast("dict[str, Any]", found)
        if "error" in line:
            raise NotOfferedError(f"{self.place.path}: {line['error']}")
        if "end" in line:
            self.ending = str(line["end"])
            return None
        return line

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()


# ---- finding


def places(directory: str, file_name: str) -> list[Place]:
    """Where to look for what this path means. What is there may be of programs that are gone.

    Raises NotADirectoryError or FileNotFoundError.
    """
    path = os.path.abspath(directory)
    if is_socket(path):
        return [Place(path)]
    names = LogNames.of(path, file_name)
    listing = [each.name for each in Path(path).iterdir()]
    if is_socket(names.watch):
        return [Place(names.watch)]
    if os.path.basename(names.meta) in listing or os.path.basename(names.lock) in listing:
        root, namespace, topic = _as_topic(path)
        return [Place(each, f"/{namespace}/{topic}") for each in _sockets(root, storages=True)]
    return [Place(each) for each in _below(path, listing)]


def _as_topic(path: str) -> tuple[str, str, str]:
    """The root of the storage that it would be a topic of, and its name there."""
    parent, topic = os.path.split(path)
    root, namespace = os.path.split(parent)
    return root, namespace, topic


def _sockets(directory: str, *, storages: bool = False) -> list[str]:
    found = [name for name in _names_in(directory) if name.endswith(SUFFIX)]
    if storages:
        found = [name for name in found if name.startswith(".storage-")]
    return [path for name in found if is_socket(path := f"{directory}/{name}")]


def _below(root: str, listing: list[str]) -> list[str]:
    """The sockets in a directory, and in those below it as deep as topics are."""
    found = _sockets(root)
    level = [f"{root}/{name}" for name in sorted(listing)]
    for depth in range(2):
        directories = [path for path in level if Path(path).is_dir()][:MAX_DIRECTORIES]
        for path in directories:
            found += _sockets(path)
        if depth == 0:
            level = [f"{path}/{name}" for path in directories for name in _names_in(path)]
    return found


def _names_in(path: str) -> list[str]:
    try:
        return sorted(each.name for each in Path(path).iterdir())
    except OSError:
        return []


def find_offers(directory: str, file_name: str) -> list[Feed]:
    """Connect to what is offered there now: to one log, or to all that are below the directory.

    Raises NotOfferedError if there is nothing; OSError.
    """
    feeds: list[Feed] = []
    refusals: list[Exception] = []
    try:
        found = places(directory, file_name)
        several = len(found) > 1
        for place in found:
            try:
                if not (several and place.topic) or _has_topic(place):
                    feeds.append(Feed(place))
            except (ConnectionRefusedError, FileNotFoundError):
                continue  # of a program that is gone
            except (OSError, UnsupportedFormatError) as error:
                refusals.append(error)
    except BaseException:
        for feed in feeds:
            feed.close()
        raise
    if not feeds:
        raise refusals[0] if refusals else _not_offered(os.path.abspath(directory), file_name)
    for refusal in refusals:
        complain(str(refusal))
    return feeds


def _has_topic(place: Place) -> bool:
    """Whether the topic is open in this storage, one of several in a root."""
    feed = Feed(place)
    try:
        feed.ask(1.0, 1)
        return feed.read() is not None
    except NotOfferedError:
        return False
    finally:
        feed.close()


def _not_offered(path: str, file_name: str) -> NotOfferedError:
    if is_socket(path):
        return NotOfferedError(f"{path}: the program that was watched by this socket is gone")
    names = LogNames.of(path, file_name)
    holder = find_holder(names.lock)
    if holder is not None:
        return NotOfferedError(
            f"{path}: {holder} holds the log, and does not offer to be watched: {HOW}"
        )
    if Path(names.meta).exists():
        return NotOfferedError(
            f"{path}: nobody holds the log, so there is nothing to watch; "
            f"`danube-trio info` shows it, and --wait waits for a program"
        )
    return NotOfferedError(
        f"{path}: there is no log here, and no program below it offers to be watched: {HOW}"
    )
