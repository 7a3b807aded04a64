"""What a topic is opened with, and whether it may be opened at all.

**Given away.** A topic that was sealed here, or that another process took over, is not opened here
again just because somebody still uses it: that would take it from its new owner, and cost the
records that only one of the two has. Each use of it looks into the catalog. It comes back by itself
when its new owner has sealed it in turn, and else by `Storage.take_over`. That holds for one
`open_storage`; opening a storage anew takes over each topic that is used, as `open_wal` does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import attrs

from danube_trio._core.disk import Disk, OpenDirectory
from danube_trio._core.topic_names import topic_path
from danube_trio._engine.log.open import open_log
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.topics.delete import finish_deletion
from danube_trio.catalog import Catalog, MetadataCatalog
from danube_trio.catalog._default import default_catalog
from danube_trio.catalog._patient import latest_state
from danube_trio.cloud import CloudStore
from danube_trio.config import StorageConfig, WalConfig
from danube_trio.errors import FencedError, LogClosedError
from danube_trio.metadata import MetadataStore


@attrs.frozen
class Away:
    """A topic that is not ours any more.

    Attributes:
        epoch: in which it was.
        sealed_end: where it ended, if it was sealed here.
    """

    epoch: int
    sealed_end: int | None


class TopicOpener:
    """Of one storage. Topics are named by their whole names.

    Attributes:
        store: where objects are; None without.
        catalogs: the metadata store that the catalogs are in; None: in the object store.
        away: the topics that were given away.
        floor_of: what retention must keep of a topic; None: the program does not say.
    """

    def __init__(
        self,
        config: StorageConfig,
        disk: Disk,
        root: OpenDirectory | None,
        store: CloudStore | None,
        catalogs: MetadataStore | None,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._disk = disk
        self._root = root
        self._clock = clock
        self.store = store
        self.catalogs = catalogs
        self.away: dict[str, Away] = {}
        self.floor_of: Callable[[str], int | None] | None = None

    def config_of(self, name: str) -> WalConfig:
        """The settings of its log."""
        directory = f"{self._config.dir}/{topic_path(name)}"
        return attrs.evolve(self._config.wal, dir=directory, topic_name=name)

    def manifests_of(self, name: str) -> Catalog:
        """Its catalog in the object store."""
        assert self.store is not None
        return default_catalog(self.config_of(name), self.store)

    def catalog_of(self, name: str) -> Catalog | None:
        """Its catalog, wherever that is; None without an object store."""
        if self.store is None:
            return None
        if self.catalogs is None:
            return self.manifests_of(name)
        root = self._config.metadata_root
        return MetadataCatalog(self.catalogs, name, root=root, clock=self._clock)

    def open_log(self, name: str) -> AbstractAsyncContextManager[Wal]:
        """The block of its log."""
        return open_log(
            self.config_of(name),
            store=self.store,
            catalog=self.catalog_of(name),
            disk=self._disk,
            clock=self._clock,
            floor=partial(self._floor, name),
        )

    def _floor(self, name: str) -> int | None:
        """Asked each time: it may be said while the topic is open."""
        return self.floor_of(name) if self.floor_of is not None else None

    async def admit(self, name: str) -> None:
        """Before a topic is opened. Refuses one that was given away and did not come back."""
        away = self.away.get(name)
        if away is not None:
            if not await self.is_back(name, away):
                raise LogClosedError(
                    f"topic {name!r} was sealed here at offset {away.sealed_end}, to be opened "
                    f"elsewhere, and was not yet: open it there, or take it back with take_over()"
                )
            self.away.pop(name, None)
        await self._disk.run(self._look, name)

    def _look(self, name: str) -> None:
        """A topic that is made where the storage was would begin again, apart from the real one."""
        stray = self._root.strayed() if self._root is not None else None
        if stray is not None:
            raise OSError(
                errno.ESTALE,
                f"somebody changed the directory of the storage: it {stray}. Topic {name!r} is not "
                f"opened there: leave the storage, and move the directory back, or open it where "
                f"it is",
                self._config.dir,
            )
        finish_deletion(self._disk, self.config_of(name))

    async def is_back(self, name: str, away: Away) -> bool:
        """Whether a new owner has sealed it in turn. Raises FencedError if one has it."""
        catalog = self.catalog_of(name)
        assert catalog is not None
        state = await latest_state(catalog)
        if state is not None and state.epoch > away.epoch:
            if state.sealed or state.deleted:
                return True
            raise FencedError(away.epoch, f"{state.writer or 'a writer'} (epoch {state.epoch})")
        return False

    def fenced(self, name: str, epoch: int) -> None:
        """Another process took it over; it was ours in this epoch."""
        self.away[name] = Away(epoch, None)
