"""Settings: plain values that a user may keep in a file. Components are arguments of `open_wal`.

Every field is checked when the object is made; a bad one is a ``ValueError`` that names the field
and the value.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import attrs

from danube_trio._core.clocks import MAX_AHEAD
from danube_trio._core.codec import CODECS, DEFAULT_CODEC
from danube_trio._core.frame import MAX_BODY_BYTES
from danube_trio._core.segment import LogNames
from danube_trio._core.settings import Validator, between, whole
from danube_trio.errors import bad_argument

__all__ = ["CloudConfig", "CorruptionPolicy", "Durability", "StorageConfig", "WalConfig"]

Durability = Literal["accepted", "written", "fsync", "uploaded"]
CorruptionPolicy = Literal["refuse", "truncate", "skip"]

KIB = 1 << 10
MIB = 1 << 20


def _one_of(*allowed: str) -> Validator:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise bad_argument(field.name, value, f" must be one of {', '.join(allowed)}")

    return check


def _flag(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field.name}={value!r} must be True or False")


def _text(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{field.name}={value!r} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise bad_argument(field.name, value, " cannot be encoded as UTF-8") from error


def directory_path(name: str, value: str | os.PathLike[str], rest: str = "") -> str:
    """The absolute path; ValueError, which names the argument, if it is none of a directory."""
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise bad_argument(name, value, f" must be the path of a directory{rest}")
    return os.path.abspath(path)  # now, so that a later chdir does not split the log


def _directory(value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else directory_path("dir", value, ", or None")


@attrs.frozen(kw_only=True)
class CloudConfig:
    """Settings of a log with an object store. Sizes in bytes, durations in seconds.

    Attributes:
        prefix: what the keys of this log's objects begin with; "" takes
            ``storage/topics/<topic_name>``, as Danube does. Two logs cannot share one, and none can
            be inside the names of another (``manifest``, ``pages``, ``segments``, ``log``).
        upload_interval: a record waits at most about this long before its segment is sealed for
            upload, also while the log is idle; None uploads full segments only. Each upload is
            about three paid requests: at one every 10 s about 3.9 USD a month for each log, every
            60 s 0.65 (S3's prices of 2025).
        verify_uploads: ``read`` reads each object back and compares its checksum before the catalog
            names it; ``head`` compares size and tag only.
        max_local_bytes: when so much is not uploaded yet, appends wait; None: never.
        keep_local_bytes: uploaded segments stay on disk, newest first, up to this total; the
            records of those that go stay in the store. What shall go from there too is said by
            ``retain_bytes`` and ``retain_age`` of the log.
        open_timeout: how long opening the log waits for the store and the catalog, all in all,
            before it raises StoreUnavailableError. The time that recovery takes does not count.
        upload_timeout: how long an append with ``durability="uploaded"`` waits for the store before
            it raises StoreUnavailableError.
        block_bytes: about how much a read from the store fetches at once.
        cache_bytes: fetched blocks kept for all readers of the log together.
        readahead: how many blocks are fetched ahead of a reader.
        retry_seconds: the longest pause between two tries of a failing upload.
    """

    prefix: str = attrs.field(default="", validator=_text)
    upload_interval: float | None = attrs.field(
        default=60.0, validator=between(0.01, 1e9, optional=True)
    )
    verify_uploads: Literal["read", "head"] = attrs.field(
        default="read", validator=_one_of("read", "head")
    )
    max_local_bytes: int | None = attrs.field(
        default=None, validator=whole(1, 1 << 62, optional=True)
    )
    keep_local_bytes: int = attrs.field(default=256 * MIB, validator=whole(0, 1 << 62))
    open_timeout: float = attrs.field(default=60.0, validator=between(0.01, 1e6))
    upload_timeout: float = attrs.field(default=60.0, validator=between(0.01, 1e6))
    block_bytes: int = attrs.field(default=1 * MIB, validator=whole(4 * KIB, 64 * MIB))
    cache_bytes: int = attrs.field(default=32 * MIB, validator=whole(1, 1 << 40))
    readahead: int = attrs.field(default=4, validator=whole(0, 64))
    retry_seconds: float = attrs.field(default=30.0, validator=between(0.01, 86_400))


@attrs.frozen(kw_only=True)
class WalConfig:
    """The settings of one log.

    Attributes:
        dir: the log's own directory, made if missing; None for a log in memory only.
        file_name: stem and suffix of the files' names.
        codec: Danube's message layout for a new log; an existing one keeps its own.
        durability: what `append` waits for unless told otherwise. ``fsync``: fdatasync returned.
            ``written``: write returned (survives a crash of the process, not of the machine).
            ``accepted``: queued. ``uploaded``: in the object store.
        visibility: readers see records that are ``durable`` (default), or already ``written`` ones,
            which a crash of the machine may take back.
        on_corruption: what to do about damaged data that was durable once. ``refuse`` raises
            `CorruptDataError`; ``truncate`` cuts the last segment there at open (a copy is kept);
            ``skip`` gives readers `Gap` items in its place.
        fsync_interval_ms: how long a record may wait unsynced when nobody waits for it.
        max_batch_bytes: how many bytes may; also how much goes into one write (but a batch is
            written whole).
        max_pending_bytes: accepted and not yet written; beyond it `append` waits.
        max_message_bytes: largest payload. Danube's broker has the same default.
        max_atomic_batch_bytes: largest encoded size of one `append_batch`.
        cache_capacity: records kept in memory for readers; with ``dir=None`` all that there is.
        cache_bytes: bytes kept there; the newest block stays, however large its batch is.
        read_block_bytes: how much a reader fetches at once, and so about half of what it holds.
        segment_bytes: a segment is sealed when it would exceed this. Opening scans one segment.
        segment_age: seconds after which a segment with records is sealed, or None.
        preallocate_bytes: the active segment's file grows in such steps, which makes a sync about a
            quarter cheaper (decision 0003), while there is plenty of free space; 0 turns it off.
        retain_bytes: how large the whole log may be: its oldest sealed segments beyond this total
            go for good, local files and objects in the store alike. None: none go. (How much stays
            on disk of what is in a store is ``cloud.keep_local_bytes``.)
        retain_age: sealed segments whose newest record is older (seconds) go for good, in the same
            way. None: none go.
        max_clock_ahead: how far ahead (seconds) a time is believed. A record whose append time is
            further ahead of the clock counts, for retention and readers by time, as if its time
            were not known, and append times go back to the clock's. A clock that jumps further
            ahead while the log is open frees nothing by age until it has stood so long.
        cloud: what an object store is used for, if `open_wal` is given one.
        topic_name, producer_name, broker_addr: written into messages appended as plain bytes.
        watch: offer statistics to ``danube-trio top``, by a socket in the directory that only this
            user may use.
    """

    dir: str | None = attrs.field(default=None, converter=_directory)
    file_name: str = attrs.field(default="wal.log", validator=_text)
    codec: str = attrs.field(default=DEFAULT_CODEC, validator=_one_of(*CODECS))
    durability: Durability = attrs.field(
        default="fsync", validator=_one_of("accepted", "written", "fsync", "uploaded")
    )
    visibility: Literal["durable", "written"] = attrs.field(
        default="durable", validator=_one_of("durable", "written")
    )
    on_corruption: CorruptionPolicy = attrs.field(
        default="refuse", validator=_one_of("refuse", "truncate", "skip")
    )
    fsync_interval_ms: float = attrs.field(default=100, validator=between(1, 3_600_000))
    max_batch_bytes: int = attrs.field(default=4 * MIB, validator=whole(1, 256 * MIB))
    max_pending_bytes: int = attrs.field(default=32 * MIB, validator=whole(1, 1 << 40))
    max_message_bytes: int = attrs.field(default=10 * MIB, validator=whole(1, 60 * MIB))
    max_atomic_batch_bytes: int = attrs.field(default=32 * MIB, validator=whole(1, MAX_BODY_BYTES))
    cache_capacity: int = attrs.field(default=65_536, validator=whole(1, 1 << 32))
    cache_bytes: int = attrs.field(default=16 * MIB, validator=whole(1, 1 << 40))
    read_block_bytes: int = attrs.field(default=512 * KIB, validator=whole(1, 64 * MIB))
    segment_bytes: int = attrs.field(default=64 * MIB, validator=whole(1, 1 << 40))
    segment_age: float | None = attrs.field(
        default=None, validator=between(0.001, 1e9, optional=True)
    )
    preallocate_bytes: int = attrs.field(default=8 * MIB, validator=whole(0, 1 << 32))
    retain_bytes: int | None = attrs.field(default=None, validator=whole(0, 1 << 62, optional=True))
    retain_age: float | None = attrs.field(default=None, validator=between(0, 1e10, optional=True))
    max_clock_ahead: float = attrs.field(default=MAX_AHEAD, validator=between(1, 1e10))
    cloud: CloudConfig = attrs.field(
        factory=CloudConfig, validator=attrs.validators.instance_of(CloudConfig)
    )
    topic_name: str = attrs.field(default="", validator=_text)
    producer_name: str = attrs.field(default="", validator=_text)
    broker_addr: str = attrs.field(default="", validator=_text)
    watch: bool = attrs.field(default=False, validator=_flag)

    def __attrs_post_init__(self) -> None:
        LogNames.of(self.dir or "", self.file_name)


def _topic_settings() -> WalConfig:
    """Of one log among many: it holds less memory, and reserves less space, than one alone."""
    return WalConfig(
        cache_bytes=1 * MIB,
        max_pending_bytes=8 * MIB,
        preallocate_bytes=256 * KIB,
        cloud=CloudConfig(cache_bytes=4 * MIB),
    )


def _root_directory(value: str | os.PathLike[str]) -> str:
    path = _directory(value)
    if path is None:
        raise ValueError("dir=None: a storage keeps its topics in a directory")
    return path


def _template(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, WalConfig):
        raise ValueError(f"{field.name}={value!r} must be a WalConfig")
    own = {"dir": value.dir, "topic_name": value.topic_name, "cloud.prefix": value.cloud.prefix}
    for name, given in own.items():
        if given:
            raise ValueError(f"{field.name}: {name}={given!r} must be left out: each topic has one")
    if value.watch:
        raise ValueError(
            f"{field.name}: watch=True must be left out: StorageConfig(watch=True) offers the "
            "statistics of all topics by one socket"
        )


def _metadata_root(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    _text(_, field, value)
    if not value.startswith("/") or value.endswith("/") or "//" in value:
        raise ValueError(f'{field.name}={value!r} must begin with "/", and not end with it')


@attrs.frozen(kw_only=True)
class StorageConfig:
    """The settings of many logs in one process, one for each topic.

    Attributes:
        dir: the root directory, made if missing. A topic's log is in ``<dir>/<namespace>/<topic>``.
        wal: the settings of every topic. `dir`, `topic_name` and ``cloud.prefix`` are not among
            them: each topic has its own. The default holds less memory, and reserves less space
            on disk, than that of a log alone.
        max_open_topics: so many are open at a time; then the one that was used longest ago is
            closed first. An open topic takes four file descriptors.
        idle_seconds: a topic that nobody used so long is closed.
        io_threads: threads for the writes and syncs of all topics together.
        metadata_root: what the keys in a metadata store begin with, of catalogs and cursors. (For
            Danube's own, ``/danube``, cursors are where Danube has them: below ``/topics``.) Two
            storages with topics of one name need roots, and object stores, of their own.
        watch: offer statistics of all topics to ``danube-trio top``, by a socket in `dir` that only
            this user may use.
    """

    dir: str = attrs.field(converter=_root_directory)
    wal: WalConfig = attrs.field(factory=_topic_settings, validator=_template)
    max_open_topics: int = attrs.field(default=256, validator=whole(1, 1_000_000))
    idle_seconds: float = attrs.field(default=60.0, validator=between(0.01, 1e9))
    io_threads: int = attrs.field(default=8, validator=whole(1, 1024))
    metadata_root: str = attrs.field(default="/danube", validator=_metadata_root)
    watch: bool = attrs.field(default=False, validator=_flag)
