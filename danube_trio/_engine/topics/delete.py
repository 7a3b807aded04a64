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

**For good** nothing stays on the local side, for a name that is never used again. The tombstone of
the catalog stays: it is what fences. With the lock held,

1. the topic's directory gets a name that is no topic's (`GOING`), and its parent is synced. That is
   the step: before it the log is whole, after it the topic is deleted;
2. its files go, the lock file last; then the directory does, and its parent is synced.

Nothing is read for that, whatever the size of the log, but for what a store's tombstone asks for.

What a crash left of the second step is found by its name, at the next deletion for good. By then
nobody knows whether the first step was durable: if its sync failed, one that succeeds later says
nothing of it, and a power cut could bring the log back under its own name, without the files that
went. So before they go, a new directory takes that name, durably, and is removed after them.
"""

from __future__ import annotations

import errno
import re
import uuid
from contextlib import closing
from functools import partial

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.disk import (
    TMP_SUFFIX,
    Disk,
    OpenDirectory,
    hold,
    list_if_there,
    parent_of,
    read_file,
)
from danube_trio._core.files import Trim
from danube_trio._core.segment import LogNames
from danube_trio._core.topic_names import GOING
from danube_trio._disk.locks import this_process
from danube_trio._engine.files.foreign import danube_files, listed
from danube_trio._engine.files.recover import Recovered, recover
from danube_trio._engine.files.space import remove_each, renew_trim, replace_with_room, with_room
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
    disk: Disk,
    config: WalConfig,
    cloud: tuple[CloudStore, Catalog] | None,
    *,
    for_good: bool = False,
) -> bool:
    """Delete the log in `config.dir`, and its objects. Returns whether there was one.

    With `for_good` nothing of the directory is left, whatever an earlier deletion left of it.

    Raises LogLockedError if another process has the directory open; what the store raises, and then
    either nothing was done, or a second call does the rest; CorruptDataError for what cannot even
    be looked at; OSError.

    Cancellation: as a store's error.
    """
    held, was_here = await disk.run(_hold_any if for_good else _hold_log, disk, config)
    try:
        end = 0
        if held is not None and was_here and (cloud is not None or not for_good):
            end = await disk.run(_end_of, held, config)
        state, was_live = None, False
        if cloud is not None:  # first: else the next opening goes on with what the objects have
            state, was_live = await _bury(cloud[1], end)
        if for_good:
            await disk.run(_remove, disk, held, config)
        elif held is not None:
            await disk.run(_erase, held, config, end)
    finally:
        if held is not None:
            with trio.CancelScope(shield=True):
                await disk.run(held.close)
    if cloud is not None and state is not None:
        await _remove_objects(*cloud, state)
    return was_here or was_live


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


def _hold_log(disk: Disk, config: WalConfig) -> tuple[OpenDirectory | None, bool]:
    """Hold and lock the local log, and say whether there is one; None if it was deleted."""
    assert config.dir is not None
    if not has_log(disk, config.dir, config.file_name):
        return None, False
    held = hold(disk, _names(config).lock, this_process())
    if has_log(held, config.dir, config.file_name):
        return held, True
    held.close()  # somebody deleted it just now
    return None, False


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


# ---- the local log, for good


def _hold_any(disk: Disk, config: WalConfig) -> tuple[OpenDirectory | None, bool]:
    """Hold and lock the topic's directory, whatever is left in it, and say whether a log is.

    None if there is no directory. OSError (ENOTEMPTY) if there are files of somebody else's in it.
    """
    assert config.dir is not None
    held = _hold_if_there(disk, _names(config))
    if held is None:
        return None, False
    try:
        _refuse_others(held, _names(config))
        return held, has_log(held, config.dir, config.file_name)
    except BaseException:
        held.close()
        raise


def _hold_if_there(disk: Disk, names: LogNames) -> OpenDirectory | None:
    try:
        return hold(disk, names.lock, this_process())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse_others(disk: OpenDirectory, names: LogNames) -> None:
    """What is not the log's is not removed, and keeps its directory."""
    listing = disk.list_dir(names.directory)
    ours = {MARKER, MARKER + TMP_SUFFIX, *names.leftovers(listing)}
    theirs = {n for n in listing if not n.startswith(f"{names.stem}.") and n not in ours}
    theirs.update(danube_files(disk, names, listing))
    if theirs:
        raise OSError(
            errno.ENOTEMPTY,
            f"nothing was deleted, because there are files here that are not the log's: "
            f"{listed(sorted(theirs))}. Move them away, and delete the topic again",
            names.directory,
        )


def _remove(disk: Disk, held: OpenDirectory | None, config: WalConfig) -> None:
    """Remove the topic's directory, and what an interrupted deletion left. With the lock held."""
    names = _names(config)
    directory, going = names.directory, LogNames.of(names.directory + GOING, config.file_name)
    left = _hold_if_there(disk, going)
    if left is not None:
        with closing(left):
            disk.make_dir(directory)  # its name leads there after a crash, and not here
            _remove_held(disk, left, going, going.directory)
        if held is None:
            disk.remove_dir(directory)
            disk.sync_dir(parent_of(directory))
    if held is not None:
        stray = held.strayed()
        if stray is not None:
            raise OSError(errno.ESTALE, f"nothing was deleted: the directory {stray}", directory)
        with_room(held, names, partial(disk.rename, directory, going.directory))
        disk.sync_dir(parent_of(directory))
        _remove_held(disk, held, names, going.directory)


def _remove_held(disk: Disk, held: OpenDirectory, names: LogNames, path: str) -> None:
    """Remove a directory, held by its `names`, which is at `path` now, and all that is in it."""
    listing = held.list_dir(names.directory)
    paths = {f"{names.directory}/{name}" for name in listing}
    # The lock file last: where directories cannot be locked it is all that keeps others out.
    failed = remove_each(held, [*sorted(paths - {names.lock}), names.lock])
    for failure in failed.values():
        raise failure
    try:
        disk.remove_dir(path)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        # NFS keeps a name for a file that was removed and is open, as our lock file is.
        held.close()
        disk.remove_dir(path)
    disk.sync_dir(parent_of(path))


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
