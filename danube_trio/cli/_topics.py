"""``danube-trio topics``: the logs in a store, and in the directories of a storage root."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Any

import attrs
import trio

from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames
from danube_trio._core.topic_names import GOING
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.files.foreign import danube_files
from danube_trio._engine.read.observe import NOTHING_SEEN, Observer, find_log
from danube_trio.cli._say import complain, say
from danube_trio.cli._values import TOPICS, VARIABLE, columns
from danube_trio.cli._where import Corner, Where
from danube_trio.cli._words import in_words
from danube_trio.errors import CorruptDataError, UnsupportedFormatError

# Catalogs that are looked at at the same time. A guess.
LOOKS = 8


def print_topics(directory: str | None, file_name: str, where: Where, as_json: bool) -> bool:
    """Run the command; True if a log could not be looked at."""
    if where.topic:
        raise ValueError("--topic: topics lists all of them; `danube-trio info` shows one")
    if directory is None and not where.url:
        raise ValueError(f"missing: DIR or --store (or the variable {VARIABLE})")
    unreadable: list[OSError] = []
    local: dict[str, dict[str, Any]] = {}
    remote: dict[str, dict[str, Any]] = {}
    if directory is not None:
        local = dict(_local(RealDisk(), os.path.abspath(directory), file_name, unreadable))
        for error in unreadable:
            complain(in_words(error))
    # A store in the environment alone is not meant where a directory is named.
    if directory is None or where.explicit:
        remote = trio.run(_remote, where)
    rows = [
        {"topic": topic, "local": local.get(topic), "store": remote.get(topic)}
        for topic in sorted(local.keys() | remote.keys())
    ]
    if as_json:
        for row in rows:
            say(json.dumps(row))
    elif rows:
        say(_text(rows))
    else:
        say(f"no topics in {_looked_at(directory, where)}")
    return bool(unreadable) or any(
        "error" in found for found in (*local.values(), *remote.values())
    )


def _looked_at(directory: str | None, where: Where) -> str:
    places = [f"{directory}/NAMESPACE/NAME"] if directory is not None else []
    if directory is None or where.explicit:
        places.append(f"{where.url}, below {where.prefix or TOPICS}")
    return " and ".join(places)


# ---- directories


def _local(
    disk: RealDisk, root: str, file_name: str, unreadable: list[OSError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    meta = LogNames.of(root, file_name).meta.rpartition("/")[2]
    if meta in disk.list_dir(root):
        raise ValueError(
            f"{root} is the directory of one log, not of many: `danube-trio info` shows it"
        )
    for namespace in disk.list_dir(root):
        for name in _names_in(disk, f"{root}/{namespace}", unreadable):
            if name.endswith(GOING):
                continue  # what an interrupted deletion left
            path = f"{root}/{namespace}/{name}"
            listing = _names_in(disk, path, unreadable)
            if meta in listing or danube_files(disk, LogNames.of(path, file_name), listing):
                yield f"/{namespace}/{name}", _look_at_directory(disk, path, file_name)


def _names_in(disk: RealDisk, path: str, unreadable: list[OSError]) -> list[str]:
    """The listing; of what is no directory, nothing. One that cannot be read hides no other."""
    try:
        return disk.list_dir(path)
    except (NotADirectoryError, FileNotFoundError):
        return []
    except OSError as error:
        unreadable.append(error)
        return []


def _look_at_directory(disk: RealDisk, path: str, file_name: str) -> dict[str, Any]:
    names = LogNames.of(path, file_name)
    try:
        directory = find_log(disk, names)
        view = Observer(disk, directory).look(NOTHING_SEEN, SparseIndex(0))
        size = sum(disk.file_size(names.segment(base)) for base in directory.bases)
    except (CorruptDataError, UnsupportedFormatError, OSError) as error:
        return {"path": path, "error": str(error)}
    return {
        "path": path,
        "start_offset": view.log_start,
        "local_start": view.start,
        "end_offset": view.end,
        "segments": len(view.sealed) + 1,
        "size_bytes": size,
        "epoch": directory.meta.epoch,
        "directory_id": directory.meta.directory_id,
        "holder": find_holder(names.lock),
    }


# ---- the store


async def _remote(where: Where) -> dict[str, dict[str, Any]]:
    root = where.prefix or TOPICS
    found: dict[str, dict[str, Any]] = {}
    where.check_there()
    async with where.open() as corner:
        from danube_trio.catalog._patient import PatientStore

        store = PatientStore(corner.store)
        topics = [
            (namespace, name)
            for namespace in await store.list_children(root)
            for name in await store.list_children(f"{root}/{namespace}")
        ]
        if not topics and where.prefix:
            raise FileNotFoundError(
                errno.ENOENT, f"nothing is below --prefix {root}", corner.store.url
            )
        todo = iter(topics)
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                """One after another; the first failure ends all."""
                try:
                    for namespace, name in todo:
                        topic = f"/{namespace}/{name}"
                        facts = await _look_at_catalog(corner, root, topic)
                        if facts is not None:
                            found[topic] = facts
                except Exception as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for _ in range(min(LOOKS, len(topics))):
                nursery.start_soon(look)
        if failures:
            raise failures[0]
    return found


async def _look_at_catalog(corner: Corner, root: str, topic: str) -> dict[str, Any] | None:
    """What the catalog says; None if there is none: then it is no log."""
    prefix = "" if corner.metadata is not None else f"{root}{topic}"
    catalog = attrs.evolve(corner, prefix=prefix, topic=topic).catalog()
    try:
        state = await catalog.latest()
    except (CorruptDataError, UnsupportedFormatError) as error:
        return {"url": catalog.url, "error": str(error)}
    if state is None:
        return None
    return {
        "url": catalog.url,
        "start_offset": state.start_offset,
        "end_offset": state.end,
        "objects": len(state.segments),
        "size_bytes": sum(d.size_bytes for d in state.segments),
        "epoch": state.epoch,
        "writer": state.writer,
        "owner": state.owner,
        "sealed": state.sealed,
        "deleted": state.deleted,
    }


# ---- text


def _text(rows: list[dict[str, Any]]) -> str:
    head = ("start", "end", "files", "bytes", "epoch", "topic", "where", "")
    table: list[tuple[str, ...]] = [head]
    for row in rows:
        table += [_row(row["topic"], "local", row["local"])] if row["local"] else []
        table += [_row(row["topic"], "store", row["store"])] if row["store"] else []
    return "\n".join(columns(table, 5))


def _row(topic: str, kind: str, facts: dict[str, Any]) -> tuple[str, ...]:
    if "error" in facts:
        return ("?", "?", "?", "?", "?", topic, kind, facts["error"])
    states = [state for state in ("sealed", "deleted") if facts.get(state)]
    if facts.get("holder"):
        states.append(f"held by {facts['holder']}")
    if facts.get("writer") and not states:
        states.append(f"writer {facts['writer']}")
    return (
        str(facts["start_offset"]),
        str(facts["end_offset"]),
        str(facts.get("segments", facts.get("objects"))),
        f"{facts['size_bytes']:,}",
        str(facts["epoch"]),
        topic,
        kind,
        ", ".join(states),
    )
