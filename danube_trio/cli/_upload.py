"""``danube-trio upload``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.index import SparseIndex
from danube_trio._core.segment import LogNames
from danube_trio._disk.locks import find_holder
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.verify_segment import preview
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.set_aside import belongs
from danube_trio._engine.log.open import open_wal
from danube_trio._engine.log.wal import Wal
from danube_trio._engine.read.observe import NOTHING_SEEN, Observer, View, find_log
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._say import say
from danube_trio.cli._values import counted
from danube_trio.cli._where import Where
from danube_trio.config import CloudConfig, WalConfig
from danube_trio.errors import FencedError, LogLockedError, StoreUnavailableError

# How often to look what was uploaded, for the progress bar and for giving up. A guess.
LOOK_SECONDS = 0.25
# Local files stay: whoever uploads by hand did not ask for them to be removed.
EVERYTHING = 1 << 62


@attrs.frozen
class _Waiting:
    """What a directory has that the store has not."""

    directory: Directory
    state: CatalogState | None
    start: int
    end: int
    segments: int
    size_bytes: int

    @property
    def owned(self) -> bool:
        """What is waiting is part of the log."""
        return self.state is None or belongs(self.directory.meta, self.state)


def upload(directory: str, *, where: Where, file_name: str, as_json: bool, **wanted: Any) -> None:
    """Run the command."""
    where.check_log()
    names = LogNames.of(directory.rstrip("/") or "/", file_name)
    if not wanted["dry_run"] and (holder := find_holder(names.lock)) is not None:
        raise LogLockedError(names.lock, holder)
    with open_bar("uploading", None) as bar:
        run = _Upload(where, names, bar, **wanted)
        facts = trio.run(run.run)
    say(json.dumps(facts) if as_json else _text(facts))


@attrs.define(eq=False)
class _Upload:
    where: Where
    names: LogNames
    bar: Bar
    seal: bool
    dry_run: bool
    take_over: bool
    timeout: float

    async def run(self) -> dict[str, Any]:
        async with self.where.open() as corner:
            state = await corner.catalog().latest()
            waiting = await trio.to_thread.run_sync(_look_at, self.names, state)
            if self.dry_run:
                return self._facts(waiting, None)
            self._refuse_other_owner(waiting)
            done = waiting.owned and waiting.start == waiting.end
            if state is not None and done and (state.sealed or not self.seal):
                # Opening would begin an epoch for nothing.
                found = {"uploaded": True, "epoch": state.epoch, "sealed": state.sealed}
                return self._facts(waiting, None) | found
            self.bar.expect(waiting.size_bytes)
            config = WalConfig(
                dir=self.names.directory,
                file_name=self.names.file_name,
                topic_name=corner.topic,
                preallocate_bytes=0,
                cloud=CloudConfig(
                    prefix=corner.prefix, keep_local_bytes=EVERYTHING, upload_interval=None
                ),
            )
            async with open_wal(config, store=corner.store, catalog=corner.catalog()) as wal:
                end = wal.next_offset
                await self._wait(wal, lambda: wal.wait_uploaded(end))
                if self.seal:
                    await self._wait(wal, wal.seal)
                return self._facts(waiting, wal)

    def _refuse_other_owner(self, waiting: _Waiting) -> None:
        state = waiting.state
        if state is None or waiting.owned or self.take_over:
            return
        raise FencedError(
            waiting.directory.meta.epoch,
            f"{state.writer} (epoch {state.epoch}), whose log it is now. With --take-over this "
            f"directory gets it back, and what it has beyond offset {state.end} is set aside. "
            f"Otherwise",
        )

    async def _wait(self, wal: Wal, step: Callable[[], Awaitable[Any]]) -> None:
        """Wait for a step that may be repeated, show how far it is, and give up in time."""
        done, since = -1, trio.current_time()
        while True:
            with trio.move_on_after(LOOK_SECONDS) as scope:
                await step()
            cloud = wal.statistics().cloud
            assert cloud is not None
            if cloud.uploaded_bytes > done:
                self.bar.advance(cloud.uploaded_bytes - max(0, done))
                done, since = cloud.uploaded_bytes, trio.current_time()
            if not scope.cancelled_caught:
                return
            if trio.current_time() - since > self.timeout:
                why = f" ({cloud.upload_error})" if cloud.upload_error else ""
                raise StoreUnavailableError(
                    f"nothing was uploaded for {self.timeout:g} s{why}: the same command goes on "
                    f"where this one stopped"
                )

    def _facts(self, waiting: _Waiting, wal: Wal | None) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "directory": self.names.directory,
            "uploaded": wal is not None,
            "owned": waiting.owned,
            "writer": waiting.state.writer if waiting.state is not None else None,
            "start_offset": waiting.start,
            "end_offset": waiting.end,
            "records": waiting.end - waiting.start,
            "segments": waiting.segments,
            "size_bytes": waiting.size_bytes,
            "epoch": None,
            "sealed": False,
            "notes": [],
        }
        if wal is not None:
            statistics = wal.statistics()
            assert statistics.cloud is not None
            facts |= {
                "end_offset": wal.uploaded_end,
                "records": max(0, wal.uploaded_end - waiting.start),
                "segments": statistics.cloud.uploads,
                "size_bytes": statistics.cloud.uploaded_bytes,
                "epoch": statistics.cloud.epoch,
                "sealed": statistics.phase == "sealed",
                "notes": list(statistics.notes),
            }
        return facts


def _look_at(names: LogNames, state: CatalogState | None) -> _Waiting:
    """What is durable in the directory, and not in the catalog."""
    disk = RealDisk()
    directory = find_log(disk, names)
    view = Observer(disk, directory).look(NOTHING_SEEN, SparseIndex(0))
    stored = state.end if state is not None else view.start
    start = max(view.start, stored)
    sealed = [segment for segment in view.sealed if segment.base >= stored]
    sizes = [segment.size_bytes for segment in sealed]
    end, active_bytes = _active(names, directory, view)
    if end > max(view.active_base, stored):
        sizes.append(active_bytes)
    return _Waiting(directory, state, start, max(start, end), len(sizes), sum(sizes))


def _active(names: LogNames, directory: Directory, view: View) -> tuple[int, int]:
    """Where the log ends, and the size of its last segment: as opening it will find them."""
    mark = view.mark
    if find_holder(names.lock) is None:
        expected = preview(RealDisk(), directory)
        if expected is not None and expected.base == view.active_base:
            return max(view.end, expected.next_offset), expected.size_bytes
    return view.end, mark.position if mark is not None and mark.base == view.active_base else 0


def _text(facts: dict[str, Any]) -> str:
    what = (
        f"{counted(facts['records'], 'record')}, offsets {facts['start_offset']} to "
        f"{facts['end_offset']} (exclusive), {counted(facts['segments'], 'segment')}, "
        f"{counted(facts['size_bytes'], 'byte')}"
    )
    if not facts["uploaded"]:
        text = f"would upload {what}"
        if not facts["owned"]:
            text = (
                f"would upload nothing: the log was taken over by {facts['writer']}, for another "
                f"directory"
            )
        return text
    text = f"uploaded {what}" if facts["records"] else "everything was uploaded already"
    return text + (", and left sealed" if facts["sealed"] else "")
