"""Which topics there are: in the storage's directory, and in the object or metadata store.

A topic is there if either has it, and neither says that it was deleted.
"""

from __future__ import annotations

from collections.abc import Callable

from danube_trio._core.danube_catalog import Head
from danube_trio._core.disk import Disk, list_if_there
from danube_trio._core.topic_names import is_part
from danube_trio._engine.topics.delete import has_log
from danube_trio.catalog import Catalog
from danube_trio.catalog._patient import PatientStore, each, latest_state
from danube_trio.cloud import CloudStore
from danube_trio.metadata import MetadataStore

TOPICS = "storage/topics"
# How many catalogs are looked at together: each look is three requests.
LOOKS = 16


def local_topics(disk: Disk, root: str, file_name: str) -> set[str]:
    """The topics with a log below this directory. Blocking."""
    found: set[str] = set()
    for namespace in _parts(disk, root):
        for topic in _parts(disk, f"{root}/{namespace}"):
            if has_log(disk, f"{root}/{namespace}/{topic}", file_name):
                found.add(f"/{namespace}/{topic}")
    return found


def _parts(disk: Disk, directory: str) -> list[str]:
    return [name for name in list_if_there(disk, directory) if is_part(name)]


async def topics_in_metadata(metadata: MetadataStore, root: str) -> dict[str, bool]:
    """The topics that have a catalog in a metadata store, and whether it says they are there."""
    prefix = f"{root}/{TOPICS}/"
    found: dict[str, bool] = {}
    for entry in await metadata.list_entries(prefix):
        parts = entry.key.removeprefix(prefix).split("/")
        if len(parts) != 3 or parts[2] != "head" or not all(map(is_part, parts[:2])):
            continue
        found[f"/{parts[0]}/{parts[1]}"] = not _is_deleted(entry.value)
    return found


def _is_deleted(head: bytes) -> bool:
    try:
        return Head.decode(head).deleted
    except ValueError:
        return False  # damaged, or of a later version: opening it says so


async def topics_in_store(
    store: CloudStore, catalog_of: Callable[[str], Catalog]
) -> dict[str, bool]:
    """The topics that have a catalog in the object store, and whether it says they are there."""
    store = PatientStore(store)
    namespaces = [part for part in await store.list_children(TOPICS) if is_part(part)]
    candidates: list[str] = []

    async def look_into(namespace: str) -> None:
        topics = await store.list_children(f"{TOPICS}/{namespace}")
        candidates.extend(f"/{namespace}/{topic}" for topic in topics if is_part(topic))

    await each(look_into, namespaces, LOOKS)
    found: dict[str, bool] = {}

    async def look_at(topic: str) -> None:
        try:
            state = await latest_state(catalog_of(topic))
        except ValueError:
            found[topic] = True  # another topic's log is in its place: opening it says so
            return
        if state is not None:
            found[topic] = not state.deleted

    await each(look_at, candidates, LOOKS)
    return found
