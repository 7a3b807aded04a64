"""A disk in memory that forgets what was not synced, and fails when told to.

Real file systems are kinder than their promises: ext4, xfs and btrfs hide a forgotten directory
sync, and a killed process loses nothing at all, so a program that would lose data in a power cut
passes every test on them. `SimDisk` keeps exactly the promises that `danube_trio._core.disk` lists
and breaks all others. It starts no threads, is deterministic, and its seed repeats a crash.

**The model**

1. *A file* has durable bytes and a durable size, and a list of unsynced changes: writes, sizes that
   grew (by a write or `allocate`), truncations. Readers see all of them applied. `sync_data` makes
   those of that file durable. It does nothing for its name. `write_durable_at` makes its own bytes
   and the size durable, and nothing that was written before.
2. *A directory* has durable names and a list of unsynced changes of them: creations (of files and
   directories), further names (`link`), renames, removals. `sync_dir` makes those of that directory
   durable. It does nothing for the files. A file is lost with its last name, or with that of a
   directory above it.
3. *A power cut* keeps any subset of the unsynced changes, each on its own, in any order of arrival:
   a later write without an earlier one, a size without the data that it covers (zeros), data
   beyond the size that was kept (lost), a name without the content, a removal without the creation
   that came before it. What is kept is applied in the order in which it was done.
4. *A write is torn* at any multiple of `sector_bytes` (512; 1 means anywhere): a sector is written
   whole or not at all.
5. *A rename is atomic* and names an inode: if it is kept, its target is that file, and the file has
   no other name, whether or not the creation of its source was kept. If it is lost, the target is
   what it was, and the source exists if its creation was kept. Renames stay within one directory
   (OSError EXDEV), because what a crash makes of others is each file system's own affair. Names
   that the file had before by `link` stay, as far as they were kept.
6. *A killed process* (kill -9) loses nothing that a call has done: the page cache survives it, and
   so do the unsynced changes, as unsynced changes: the next power cut may still take them. Only a
   write during which the process dies may be there in part.
7. *A failed sync* reports its error once. What was pending is still visible, but no later sync
   makes it durable, and later syncs succeed: the kernel has marked the pages clean.
8. *A full disk* (`capacity_bytes`): a write or `allocate` beyond it does what fits and raises
   ENOSPC. Space is the sum of the file sizes: holes count, names do not.
9. *Locks* end with `release`, with the process, and with any crash. One belongs to its inode, not
   to a name: a lock file that was removed leaves it, and the next file of that name is another one.
10. *Watches* tell of every visible change, by any process, at once. To arm one is the operation
   "watch", which can be made to fail.

**Other programs** move, remove, replace and add what a log has open. Any `SimDisk` can stand for
one (`process()`), with `rename`, also of a directory, `unlink`, `link`, `write_file` and
`remove_tree`; what these change can be lost in a crash like all else, but for `write_file`. A name
is in a directory, not at a path. So who holds a directory (`open_dir`) goes on in it, wherever it
is, and its unsynced names go where it goes: whether the crash keeps the move is one question,
whether it keeps those names another.

**Crashes** are looked for after the fact: `crash_points` replays the history and gives, for every
operation that changed something, the disks that a crash just before it, or in the middle of it,
can leave. They are `SimDisk` objects themselves, so a recovery that runs on one can be crashed too.

**Processes**: a `SimDisk` is one process's view. `process()` gives another one on the same disk;
`kill()` ends one, which can do nothing more.

**Time**: calls by `run` and on lanes take one checkpoint, or `latency` seconds of trio's clock,
which a test makes virtual (`trio.testing.MockClock`).
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Sequence

import attrs

from danube_trio.testing._sim_crash import Crash, crashes
from danube_trio.testing._sim_faults import Fault, Operation
from danube_trio.testing._sim_model import Effect, Model
from danube_trio.testing._sim_process import SimProcess
from danube_trio.testing._sim_store import Store


@attrs.frozen(eq=False)
class CrashState:
    """A disk after a crash.

    Attributes:
        name: what kind of crash; unique at one crash point.
        op_count: how many operations were done before it.
        disk: the disk. It has no faults, locks or hook, and its own history, which starts here.
    """

    name: str
    op_count: int
    disk: SimDisk
    _crash: Crash = attrs.field(repr=False)

    @property
    def lost(self) -> tuple[str, ...]:
        """What the crash took, oldest first, in words."""
        return tuple(self._crash.lost())


@attrs.frozen(eq=False)
class CrashPoint:
    """The crashes that are possible just before, or in the middle of, operation `op_count`.

    What a program was told was durable when `SimDisk.op_count` was not larger must be in all.
    """

    op_count: int
    states: tuple[CrashState, ...]


class SimDisk(SimProcess):
    """A simulated disk; implements `Disk`. The module's documentation has the model.

    Paths are as on a real disk; relative ones start at "/", which exists. Everything ever written
    stays in memory, for the history.

    Args:
        seed: of the sampled crashes. The same calls with the same seed give the same crashes.
        sector_bytes: what is written whole or not at all.
        capacity_bytes: how large all files together may be; None means no limit.
        latency: seconds that a call by `run` or on a lane takes.
        on_operation: called with each operation before it has any effect. It may call `kill`.
    """

    def __init__(
        self,
        *,
        seed: int | str = 0,
        sector_bytes: int = 512,
        capacity_bytes: int | None = None,
        latency: float = 0.0,
        on_operation: Callable[[Operation], None] | None = None,
    ) -> None:
        if sector_bytes < 1:
            raise ValueError(f"sector_bytes must be at least 1, got {sector_bytes!r}")
        super().__init__(Store(seed, sector_bytes, capacity_bytes, latency, on_operation))

    def __repr__(self) -> str:
        state = "" if self._process.alive else "killed, "
        return f"<SimDisk {state}{self.op_count} operations, open: {self.open_paths}>"

    def process(self) -> SimDisk:
        """Return another process's view of this disk, with files and locks of its own."""
        return _view(self._store)

    # -- settings and faults

    @property
    def capacity_bytes(self) -> int | None:
        """How large all files together may be. Can be changed at any time."""
        return self._store.capacity_bytes

    @capacity_bytes.setter
    def capacity_bytes(self, value: int | None) -> None:
        self._store.capacity_bytes = value

    @property
    def on_operation(self) -> Callable[[Operation], None] | None:
        """Called with each operation before it has any effect. Can be changed at any time."""
        return self._store.on_operation

    @on_operation.setter
    def on_operation(self, value: Callable[[Operation], None] | None) -> None:
        self._store.on_operation = value

    def fail(
        self,
        operation: str | None,
        nth: int = 1,
        *,
        error: int | None = errno.EIO,
        path_contains: str | None = None,
        after: bool = False,
        short: int | None = None,
        sticky: bool = False,
    ) -> Fault:
        """Let the `nth` matching operation from now on fail with OSError(`error`).

        Args:
            operation: "create", "write", "sync_data" and so on (`OPERATIONS`); None matches all.
            nth: counts the matching operations from 1.
            error: the errno. None makes the disk lie: "write", "sync_data" and "sync_dir" return
                as if they had worked, and did nothing; "read" returns `short` bytes.
            path_contains: only operations whose path contains this (of a rename, link: the target).
            after: the operation takes effect, and then fails.
            short: of a "write", "read" or "allocate", do this many bytes (by default none) before
                failing.
            sticky: fail all matching operations from the `nth` on, until `Fault.cancel`.
        """
        fault = Fault(operation, nth, sticky, error, path_contains, after, short)
        self._store.faults.append(fault)
        return fault

    # -- crashes

    def crash_states(self, at: int | None = None, *, samples: int = 0) -> Iterator[CrashState]:
        """Yield the disks that a crash just before operation `at`, or inside it, can leave.

        Two of them always: "synced only" (the power went) and "everything written" (the process
        was killed, the page cache is there). Inside a write: "killed in the next write at <bytes>".
        Power cuts that keep more than they must, where that makes a difference: "everything kept",
        "sizes without data", "data without directory entries", "directory entries without data",
        "removals only", "last write torn at <bytes>", the same with ", size kept", "first write
        lost", and "sample <n>". Of those that keep the same only the first is given.

        Args:
            at: an operation's number; None or `op_count` means now.
            samples: how many random crashes to try besides those with a name.
        """
        stop = self.op_count if at is None else at
        if not 0 <= stop <= self.op_count:
            raise ValueError(f"at must be between 0 and {self.op_count}, got {at!r}")
        if stop == self.op_count:
            return self._states(stop, self._store.model, (), samples)
        *_, (_, model, ahead) = self._store.replay(stop)
        return self._states(stop, model, ahead, samples)

    def crash_points(self, *, samples: int = 0, start: int = 0) -> Iterator[CrashPoint]:
        """Yield every point of the history at which a crash can leave something new, in order.

        The last one is now. For example::

            for point in disk.crash_points(samples=4):
                for state in point.states:
                    ...  # recover from state.disk; compare with what was durable at point.op_count

        Args:
            samples: as for `crash_states`, at each point.
            start: leave out the points before this operation.
        """
        for number, model, ahead in self._store.replay(self.op_count):
            if number >= start:
                yield CrashPoint(number, tuple(self._states(number, model, ahead, samples)))

    def crash(self, name: str = "synced only") -> SimDisk:
        """Return the disk after the crash of that name, now. The process goes on with the old one.

        ValueError if no such crash is possible.
        """
        names: list[str] = []
        for state in self.crash_states():
            if state.name == name:
                return state.disk
            names.append(state.name)
        raise ValueError(f"no crash {name!r} is possible now, only {', '.join(names)}")

    def _states(
        self, number: int, model: Model, ahead: Sequence[Effect], samples: int
    ) -> Iterator[CrashState]:
        store = self._store
        seed = f"{store.seed}/{number}"
        for crash in crashes(
            model,
            ahead,
            sector_bytes=store.sector_bytes,
            samples=samples,
            rng=lambda: random.Random(seed),
        ):
            after = Store(
                f"{seed}/{crash.name}",
                store.sector_bytes,
                store.capacity_bytes,
                store.latency,
                None,
                crash.model,
            )
            yield CrashState(crash.name, number, _view(after), crash)

    # -- looking at it and damaging it: never a fault's business

    @property
    def op_count(self) -> int:
        """How many operations there were so far, by all processes, failed ones included."""
        return len(self._store.operations)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations so far, in order."""
        return tuple(self._store.operations)

    def tree(self) -> dict[str, bytes]:
        """Return path and content of all files, as a process sees them, by path."""
        return {
            path: inode.visible.read(inode.visible.size, 0)
            for path, _, inode in self._store.model.walk()
            if not inode.is_dir
        }

    def read_file(self, path: str) -> bytes:
        """Return the content of a file, as a process sees it."""
        content = self._store.model.inodes[self._paths.find_file(path)].visible
        return content.read(content.size, 0)

    def write_file(self, path: str, data: bytes) -> None:
        """Make this the content of a file, made with its directories if missing; all durable."""
        operation = Operation("write_file", path, 0, len(data))
        self._by_hand(operation, lambda: self._paths.put(path, data))

    def remove_tree(self, path: str) -> None:
        """Remove a directory with all that is in it, as ``rm -rf`` does: each removal may be lost.

        Who has a file or the directory open keeps it. FileNotFoundError, NotADirectoryError.
        """
        self._by_hand(Operation("remove_tree", path), lambda: self._paths.remove_tree(path))

    def corrupt(self, path: str, position: int, bit: int = 0) -> None:
        """Flip one bit (0 to 7) of a file, durably. Makes all else in the file durable too."""
        operation = Operation("corrupt", path, position, 1)
        self._by_hand(operation, lambda: self._paths.flip(path, position, bit))

    def _by_hand(self, operation: Operation, effect: Callable[[], None]) -> None:
        """Whether this process lives does not matter."""
        self._store.perform(operation, lambda: None, effect)


def _view(store: Store) -> SimDisk:
    view = SimDisk.__new__(SimDisk)
    SimProcess.__init__(view, store)
    return view
