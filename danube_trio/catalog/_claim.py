"""Whose is a prefix? The log that created ``<prefix>/log`` there, once and for all.

A catalog says which objects are a log's, and its owner removes those that it does not name. Two
catalogs over one prefix would remove each other's objects: manifests and a metadata store, or two
metadata stores, or two roots in one. They do not know of each other; the store knows them both. So
a log *claims* its prefix, by a create that one log wins, before it uploads anything.

The id that it claims it with is the catalog's, so of several directories that begin a log at the
same time none is locked out. ``place`` in the catalog says that it was done::

    begin: publish, with log  --> claim --> upload ...      next open: claim, publish with place
           (a crash here: the next open claims)             later: never again

So where there is a claim and no catalog, the catalog is lost, or elsewhere: nothing is begun.

**A catalog never goes back**, and everything that is uploaded begins where it ends at that time. So
objects that begin behind its end, or are of a later epoch, tell that it did: it was lost, or is an
older copy. Whoever went on from there would give their offsets again, and take them for garbage.
Nothing is begun, and nothing taken over: `refuse_older`. What a list says is never believed at
once, neither that there is no catalog, nor that it is older: lists of some stores are late.

A prefix may not lie inside the names that another log has below its own, nor have a log inside its
own names: that is looked for before a log is begun.
"""

from __future__ import annotations

import attrs

from danube_trio._core.catalog import CatalogState
from danube_trio._core.danube_names import OBJECT_NAME
from danube_trio._core.documents import compact, parse
from danube_trio._core.files import with_crc, without_crc
from danube_trio._core.identity import check_place
from danube_trio._core.manifest import manifest_sequence, object_parts
from danube_trio.catalog._base import Catalog
from danube_trio.catalog._patient import PatientStore, latest_state, read_document
from danube_trio.catalog._retry import Backoff, Tries
from danube_trio.cloud import CloudStore
from danube_trio.errors import (
    CorruptDataError,
    FencedError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedFormatError,
)

FORMAT = 1
# The parts that a log's keys have after its prefix. Directories: the rest of them.
_CLAIM = "log"
_DIRECTORIES = ("manifest", "pages", "segments")
_ADOPT = ", or let `danube-trio repair --store` make one of the objects"


@attrs.frozen
class Claim:
    """What ``<prefix>/log`` says."""

    log: str
    prefix: str
    topic: str = ""
    format: int = FORMAT


def _prefix_of(catalog: Catalog) -> str:
    """What all keys of a log in the object store begin with, without the "/"."""
    return catalog.object_prefix.removesuffix("/segments")


async def claim_prefix(store: CloudStore, catalog: Catalog, state: CatalogState) -> None:
    """Make the prefix that of the log of this published state, if it is nobody's.

    Raises ValueError if it is another log's; StoreUnavailableError, which a second call settles;
    and what reading raises.
    """
    prefix = _prefix_of(catalog)
    key = f"{prefix}/{_CLAIM}"
    log, data = state.log, with_crc(compact(Claim(state.log, prefix, state.topic)))
    tries = Tries(Backoff(), f"claiming {store.url}/{prefix}")
    while True:
        try:
            await store.create(key, data)
            return
        except (PreconditionFailedError, StoreUnavailableError) as error:
            # Only a look says what a create did.
            found = await _read(PatientStore(store), key)
            if found is not None and found.log == log:
                check_place(prefix, found.prefix, store.url)
                return
            if found is not None:
                of = f" (topic {found.topic})" if found.topic else ""
                raise ValueError(
                    f"cloud.prefix={prefix!r} belongs to another log in {store.url}: that is "
                    f"{found.log}{of}, below {found.prefix!r}, and this is {log}. Nothing was "
                    f"changed. Give this log a prefix or topic of its own; if the other one is "
                    f"gone for good, with all its objects, remove {key}"
                ) from error
            await tries.again(error)


async def refuse_beginning(store: CloudStore, catalog: Catalog) -> None:
    """Before a log is begun: refuse a prefix that is another's, or cannot be one's own.

    Raises ValueError if it is inside another log's names, or has another log inside its own;
    CorruptDataError if a log was begun there, and the catalog knows of none; UnsupportedFormatError
    if Danube's objects are there; FencedError if it does know, now: begin again.
    """
    prefix = _prefix_of(catalog)
    store = PatientStore(store)
    await _refuse_nested(store, prefix)
    for info in await store.list_objects(catalog.object_prefix):
        if OBJECT_NAME.fullmatch(info.key.removeprefix(f"{catalog.object_prefix}/")):
            raise UnsupportedFormatError(
                f"{store.url}/{info.key}",
                "this object was written by Danube itself, below the log's prefix",
                "Choose another topic_name or cloud.prefix; `danube-trio import-danube` makes a "
                "log of such objects, once they are in a directory",
            )
    found = await _read(store, f"{prefix}/{_CLAIM}")
    if found is None:
        await refuse_older(store, catalog, None)
        return
    if await _went_on(catalog, None):
        raise FencedError(0, "who began it")
    of = f" (topic {found.topic})" if found.topic else ""
    raise CorruptDataError(
        f"the objects of the log {found.log}{of} are below {prefix!r}, and the catalog that names "
        f"them is empty",
        path=f"{store.url}/{prefix}/{_CLAIM}",
        advice=f"Nothing was changed. Is {catalog.url} the right catalog (metadata store, root)? "
        f"Otherwise restore it{_ADOPT}; if that log is gone for good, with all its objects, "
        f"remove this",
    )


async def refuse_older(store: CloudStore, catalog: Catalog, state: CatalogState | None) -> None:
    """Before a log is begun (None) or taken over: is `state` as new as its objects?

    Raises CorruptDataError if it is not.
    """
    newer = await newer_objects(PatientStore(store), catalog, state)
    if not newer or await _went_on(catalog, state):
        return  # who takes it over from an older state is told
    what = "is empty" if state is None else f"ends at {state.end}, in epoch {state.epoch}"
    raise CorruptDataError(
        f"the catalog {what}, and is older than {len(newer)} of the objects that belong to it, "
        f"such as {newer[0].rpartition('/')[2]}",
        path=catalog.url,
        offset=None if state is None else state.end,
        advice=f"Nothing was changed. Is this the right catalog? It was lost, or restored from an "
        f"older copy: restore the newest one{_ADOPT}",
    )


async def _went_on(catalog: Catalog, state: CatalogState | None) -> bool:
    """Whether there is a newer state than this one after all."""
    tries = Tries(Backoff(), f"reading {catalog.url}")
    while True:
        looked = await latest_state(catalog)
        if looked is not None and (state is None or looked.sequence > state.sequence):
            return True
        try:
            await tries.again(None)
        except StoreUnavailableError:
            return False


async def newer_objects(
    store: CloudStore, catalog: Catalog, state: CatalogState | None
) -> list[str]:
    """Keys of objects of this log that were uploaded under a newer catalog than this; sorted."""
    below = f"{catalog.object_prefix}/"
    end, epoch = (state.end, state.epoch) if state is not None else (-1, 0)
    after = f"{below}{end:020d}" if state is not None else ""
    newer: list[str] = []
    for info in await store.list_objects(catalog.object_prefix, after=after):
        parts = object_parts(info.key.removeprefix(below))
        if parts is not None and (parts[0] > end or parts[1] > epoch):
            newer.append(info.key)
    return newer


async def read_claim(store: CloudStore, catalog: Catalog) -> Claim | None:
    """What ``<prefix>/log`` says; None if there is none. Raises CorruptDataError, StoreError."""
    return await _read(store, f"{_prefix_of(catalog)}/{_CLAIM}")


async def _read(store: CloudStore, key: str) -> Claim | None:
    def decode(data: bytes) -> Claim:
        return parse(without_crc(data), Claim, newest=FORMAT)

    def damaged(reason: str) -> CorruptDataError:
        return CorruptDataError(
            f"it does not say whose prefix this is: {reason}",
            path=f"{store.url}/{key}",
            advice="Nothing was changed. Restore it from a copy, or an older version of it",
        )

    return await read_document(store, key, decode, damaged)


async def _refuse_nested(store: CloudStore, prefix: str) -> None:
    parts = prefix.split("/")
    for i in range(1, len(parts)):
        # A file system may fold case: these names are nobody's in any spelling.
        if parts[i].casefold() in (*_DIRECTORIES, _CLAIM):
            outer = "/".join(parts[:i])
            if await _is_log(store, outer):
                raise ValueError(
                    f"cloud.prefix={prefix!r} is inside the names of the log below {outer!r} in "
                    f"{store.url}: choose a prefix (or topic) beside it"
                )
    for name in _DIRECTORIES:
        inner = await store.list_children(f"{prefix}/{name}")
        if inner:
            raise ValueError(
                f"cloud.prefix={prefix!r} has another log inside its own names, below "
                f"{f'{prefix}/{name}/{inner[0]}'!r} in {store.url}: choose a prefix (or topic) "
                f"beside it"
            )


async def _is_log(store: CloudStore, prefix: str) -> bool:
    if await _read(store, f"{prefix}/{_CLAIM}") is not None:
        return True
    listed = await store.list_objects(f"{prefix}/manifest")
    names = (info.key.removeprefix(f"{prefix}/manifest/") for info in listed)
    return any(manifest_sequence(name) is not None for name in names)
