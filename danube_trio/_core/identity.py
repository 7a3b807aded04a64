"""Whose is it? What identifies a log, and what is compared when two parts of one meet.

- A *log* is identified by an id, made with it: that of its first directory. ``wal.meta``, the
  catalog, ``<prefix>/log`` in the object store (`catalog._claim`) and each cursor have it.
- A *topic* is its name. ``wal.meta`` and the catalog have it, once somebody said it.
- A *place* is where in a store a log's objects are. ``wal.meta`` has it while the log has a store,
  the catalog has the one that it was written under.
- A *history* is a log's records. Copies of a log have the same id, and one history up to where they
  went on apart; only bytes tell (`_engine.files.set_aside`, and a cursor's witness, `dispatch`).

A fact that one side does not have (an older version wrote it, or nobody said it) is not compared.
Settings that name another log are a ValueError, since they are what must change; two stored things
that do not belong together are a CorruptDataError. Nothing is changed before these checks.
"""

from __future__ import annotations

import unicodedata

import attrs

from danube_trio._core.catalog import CatalogState
from danube_trio._core.files import Meta
from danube_trio.errors import Advice, CorruptDataError, bad_argument


def differ(one: str, other: str) -> bool:
    """Whether both are known, and not the same."""
    return bool(one and other) and one != other


def check_topic(asked: str, found: str, where: str) -> None:
    """ValueError if settings ask for another topic than is there. A slash in front is optional."""
    if differ(asked.removeprefix("/"), found.removeprefix("/")):
        what = f": the log in {where} is that of topic {found!r}, and two topics would become one: "
        raise bad_argument("topic_name", asked, what, Advice.OWN_TOPIC)


def check_place(asked: str, found: str, where: str) -> None:
    """ValueError if a catalog was written under a name that a file system took for this one."""
    if differ(asked, found) and _folded(asked) == _folded(found):
        raise ValueError(
            f"cloud.prefix: the objects of the log in {where} are below {found!r}, which this file "
            f"system takes for {asked!r}: choose a prefix (or topic) that differs in more than "
            f"case, or spell it as that log does"
        )


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def check_log(meta: Meta, state: CatalogState, path: str) -> None:
    """CorruptDataError if a directory's meta, in `path`, and a catalog are of different logs."""
    if (meta.codec, meta.trailer) != (state.codec, state.trailer):
        what = f"the directory holds a log in {meta.codec}, and the catalog one in {state.codec}"
    elif differ(meta.log, state.log):
        what = (
            f"the directory holds the log {meta.log}{_of(meta.topic)}, and the catalog the log "
            f"{state.log}{_of(state.topic)}"
        )
    else:
        return
    raise CorruptDataError(
        what,
        path=path,
        advice="Nothing was changed. Each log has a prefix and a directory of its own: check both",
    )


def _of(topic: str) -> str:
    return f" (topic {topic})" if topic else ""


def named(meta: Meta, log: str, topic: str) -> Meta:
    """A directory's meta with what it does not say yet.

    Args:
        log: the id that the catalog has, if it has one.
        topic: of the settings; "" if they have none.

    An older directory that is opened without its store gets no id: the catalog may have another.
    """
    log = log or meta.log or ("" if meta.place else meta.directory_id)
    return attrs.evolve(meta, log=log, topic=meta.topic or topic)
