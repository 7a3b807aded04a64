"""Deleting a topic: its objects, its local log, and nothing of its offsets.

A deleted topic may be opened again, and goes on where it ended: offsets are never given twice, so
the cursor of a subscription that outlived it points at nothing, not at another record. For that a
*tombstone* stays on each side, which is also the step after which the topic is deleted:

- in the catalog, a state with ``deleted``. It takes an epoch, so whoever has the log open elsewhere
  is fenced, and it names an owner that no directory is, so what another directory still has of the
  log is set aside there and not part of it any more;
- in the topic's directory, a file ``deleted``, beside an empty log that begins at the end of the
  old one. (The lock file stays too: where directories cannot be locked it is all there is.)

The marker says where the offsets go on. Removing it is the last step of beginning again, and if its
directory sync fails, a power cut may bring it back, long after. Then it lies beside a log that has
gone on beyond that offset: it is removed once more, and nothing else.

Then the rest goes: local files by the steps of a trim, so that a crash leaves leftovers at worst,
and objects of this or an earlier epoch. Each step can be done again: by a second delete, and of
the local log by the next opening. The next owner removes objects that are left.
"""

from __future__ import annotations

import re
import uuid
from contextlib import closing

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.disk import Disk, OpenDirectory, hold, list_if_there, read_file
from danube_trio._core.files import Trim
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import this_process
from danube_trio._engine.files.recover import Recovered, recover
from danube_trio._engine.files.space import remove_each, renew_trim, replace_with_room
from danube_trio.catalog import Catalog, acquire, object_parts
from danube_trio.catalog._patient import PatientStore, latest_state
from danube_trio.cloud import CloudStore
from danube_trio.config import WalConfig
from danube_trio.errors import StoreError, StoreUnavailableError

MARKER = "deleted"
_TEXT = (
    b"This topic was deleted with danube-trio. What is left here says where its offsets go on.\n"
    b"They go on at %d.\n"
)
_GOES_ON = re.compile(rb"go on at ([0-9]{1,20})\.")
_TEXT_BYTES = 1024


async def delete_topic(
    disk: Disk, config: WalConfig, cloud: tuple[CloudStore, Catalog] | None
) -> bool:
    """Delete the log in `config.dir`, and its objects. Returns whether there was one.

    Raises LogLockedError if another process has the directory open; what the store raises, and then
    either nothing was done, or a second call does the rest; CorruptDataError for what cannot even
    be looked at; OSError.

    Cancellation: as a store's error.
    """
    held = await disk.run(_hold_log, disk, config)
    try:
        end = await disk.run(_end_of, held, config) if held is not None else 0
        state, was_live = None, False
        if cloud is not None:  # first: else the next opening goes on with what the objects have
            state, was_live = await _bury(cloud[1], end)
        if held is not None:
            await disk.run(_erase, held, config, end)
    finally:
        if held is not None:
            with trio.CancelScope(shield=True):
                await disk.run(held.close)
    if cloud is not None and state is not None:
        await _remove_objects(*cloud, state)
    return held is not None or was_live


def has_log(disk: Disk, directory: str, file_name: str) -> bool:
    """Whether there is a log in this directory that was not deleted."""
    listing = list_if_there(disk, directory)
    return f"{LogNames.of(directory, file_name).stem}.meta" in listing and MARKER not in listing


def finish_deletion(disk: Disk, config: WalConfig) -> None:
    """Before a topic is opened: if it was deleted, it begins again, with nothing but its offsets.

    Raises what deleting raises.
    """
    marker = f"{config.dir}/{MARKER}"
    try:
        found = _GOES_ON.search(read_file(disk, marker, _TEXT_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return
    names = _names(config)
    held = hold(disk, names.lock, this_process())
    with closing(held):
        end = _end_of(held, config)
        if found is None or end <= int(found[1]):  # else it went on since
            _erase(held, config, end)
        held.unlink(marker)  # last: until then the next opening does all this again
        held.sync_dir(names.directory)


# ---- the local log


def _names(config: WalConfig) -> LogNames:
    assert config.dir is not None
    return LogNames.of(config.dir, config.file_name)


def _hold_log(disk: Disk, config: WalConfig) -> OpenDirectory | None:
    """Hold and lock the local log; None if there is none, or it was deleted."""
    assert config.dir is not None
    if not has_log(disk, config.dir, config.file_name):
        return None
    held = hold(disk, _names(config).lock, this_process())
    if has_log(held, config.dir, config.file_name):
        return held
    held.close()  # somebody deleted it just now
    return None


def _end_of(disk: OpenDirectory, config: WalConfig) -> int:
    recovered = _recover(disk, config)
    recovered.tail.abandon()
    return recovered.next_offset


def _recover(disk: OpenDirectory, config: WalConfig) -> Recovered:
    """Damage is no reason to keep a log that is to go."""
    return recover(disk, attrs.evolve(config, on_corruption="skip"), uuid.uuid4().hex)


def _erase(disk: OpenDirectory, config: WalConfig, end: int) -> None:
    """Leave the marker, and an empty log that begins at the end. With the lock held."""
    names = _names(config)
    marker = f"{names.directory}/{MARKER}"
    replace_with_room(disk, names, marker, _TEXT % end)
    recovered = _recover(disk, config)
    tail = recovered.tail
    assert recovered.next_offset == end, (recovered.next_offset, end)
    try:
        if tail.position:
            tail.roll_with_room(end)
        renew_trim(disk, names, Trim(end))
        keep = {names.lock, names.meta, names.trim, names.mark, names.segment(end)}
        mine = (n for n in disk.list_dir(names.directory) if n.startswith(f"{names.stem}."))
        paths = (f"{names.directory}/{name}" for name in mine)  # sorted: segments go oldest first
        failed = remove_each(disk, (path for path in paths if path not in keep))
        disk.sync_dir(names.directory)
        for failure in failed.values():
            raise failure
        tail.finish(end)
    finally:
        tail.abandon()


# ---- the catalog, and the objects


async def _bury(catalog: Catalog, end: int) -> tuple[CatalogState | None, bool]:
    """Publish the tombstone. Returns the newest state, and whether the topic lived until now."""
    before = await latest_state(catalog)
    if before is None or before.deleted:
        return before, False

    async def settle(before: CatalogState | None) -> CatalogState:
        assert before is not None  # nothing that was published ever goes
        nobody = uuid.uuid4().hex
        after = before.taken_over(nobody, f"{this_process()}, to delete it")
        return after.trimmed(max(after.end, end)).left_deleted()

    return await acquire(catalog, settle), True


async def _remove_objects(store: CloudStore, catalog: Catalog, state: CatalogState) -> None:
    """Remove the objects of this epoch and earlier ones: later ones are of another life."""
    store = PatientStore(store)
    failed: list[StoreError] = []
    try:
        for info in await store.list_objects(catalog.object_prefix):
            parts = object_parts(info.key.removeprefix(f"{catalog.object_prefix}/"))
            if parts is not None and parts[1] <= state.epoch:
                try:
                    await store.delete(info.key)
                except StoreUnavailableError:
                    raise  # nor will the next one be removed
                except StoreError as refused:
                    failed.append(refused)
        await catalog.collect(state)
        if failed:
            raise failed[0]
    except Exception as error:
        error.add_note("The topic is deleted. Delete it again to remove the objects that are left.")
        raise
