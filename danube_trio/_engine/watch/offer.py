"""What a log and a storage offer to be watched by: the name of the socket, and what is shown.

A log's socket is ``wal.watch`` in its directory. Who has the directory's lock is alone there, so a
socket that is there already is nobody's; recovery has removed it.

Several storages may share a root, each with topics of its own, and no lock says who is there. So
the name has the process in it: ``.storage-<pid>-<number>.watch``. Whoever comes removes the names
of those that are gone. All topics are behind this one socket, because a thousand would be a
thousand descriptors more.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from typing import Any, Protocol

import trio

from danube_trio._core.disk import Disk
from danube_trio._core.plain import to_plain
from danube_trio._core.stats import StorageStatistics, WalStatistics
from danube_trio._engine.watch.serve import Request, RequestError
from danube_trio._engine.watch.socket import LOG_TMP, Offer, listen, sweep, tmp_name

log = logging.getLogger("danube_trio.watch")

STORAGE_PREFIX = ".storage-"
SUFFIX = ".watch"
# A full disk must not keep a log from opening.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Topics in one snapshot, the busiest of them, and how many are looked at between two checkpoints.
MAX_TOPICS = 1000
STEP = 16
# Of a topic among many.
FIGURES = (
    *("phase", "start_offset", "uploaded_end", "durable_end", "next_offset"),
    *("size_bytes", "pending_bytes", "appended_records", "appended_bytes", "syncs"),
)

_numbers = itertools.count()


def offer_log(path: str) -> Offer | None:
    """Listen for a log, with its lock held. None, and a warning, if the disk is full."""
    return _listen(path, LOG_TMP)


def offer_storage(disk: Disk, root: str) -> Offer | None:
    """Listen for a storage."""
    disk.make_dir(root)
    sweep(root, lambda name: name.startswith(STORAGE_PREFIX) and name.endswith(SUFFIX))
    path = f"{root}/{STORAGE_PREFIX}{os.getpid()}-{next(_numbers)}{SUFFIX}"
    return _listen(path, tmp_name())


def _listen(path: str, tmp: str) -> Offer | None:
    try:
        return listen(path, tmp)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        log.warning("%s: the disk is full, so this cannot be watched", path)
        return None


class Topics(Protocol):
    """What is asked of a storage."""

    def statistics(self) -> StorageStatistics:
        """See `Storage`."""
        ...

    def open_topics(self) -> list[str]:
        """See `Storage`."""
        ...

    def topic_statistics(self, topic: str) -> WalStatistics | None:
        """See `Storage`."""
        ...


class StorageSource:
    """The `Source` of a storage: its own statistics, and some of each open topic, or all of one."""

    kind = "storage"

    def __init__(self, name: str, storage: Topics) -> None:
        self.name = name
        self._storage = storage

    async def snapshot(self, request: Request) -> dict[str, Any]:
        """See `Source`."""
        storage = self._storage
        if request.topic is not None:
            return {"topic": request.topic, "statistics": self._one(request.topic)}
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(storage.open_topics()):
            if i % STEP == STEP - 1:
                await trio.lowlevel.checkpoint()
            found = storage.topic_statistics(name)
            if found is not None:
                rows.append(_figures(name, found))
        rows.sort(key=lambda row: (-row["appended_records"], row["topic"]))
        return {
            "statistics": to_plain(storage.statistics()),
            "topics": rows[:MAX_TOPICS],
            "topics_left_out": max(0, len(rows) - MAX_TOPICS),
        }

    def _one(self, topic: str) -> Any:
        try:
            found = self._storage.topic_statistics(topic)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if found is None:
            raise RequestError(f"topic {topic} is not open now")
        return to_plain(found)


def _figures(name: str, found: WalStatistics) -> dict[str, Any]:
    figures = {figure: to_plain(getattr(found, figure)) for figure in FIGURES}
    waiting = found.cloud.waiting_bytes if found.cloud is not None else 0
    return {"topic": name, **figures, "readers": len(found.readers), "waiting_bytes": waiting}
