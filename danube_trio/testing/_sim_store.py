"""What the processes of one simulated disk share: the model, its history, locks, faults, space."""

from __future__ import annotations

import errno
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs

from danube_trio._core.disk import FileStat, parent_of
from danube_trio.testing._sim_faults import Fault, Operation
from danube_trio.testing._sim_model import (
    ROOT,
    Change,
    Cut,
    Data,
    Effect,
    Grow,
    Link,
    Lose,
    Make,
    Model,
    Rename,
    Sync,
    SyncWrite,
    Unlink,
)
from danube_trio.testing._sim_watch import SimWatch

T = TypeVar("T")


def os_error(number: int, path: str) -> OSError:
    return OSError(number, f"{errno.errorcode[number]} on the simulated disk", path)


@attrs.define(eq=False)
class Store:
    """One disk. It does what it is told: whether a process may is decided in `_sim_disk`."""

    seed: int | str
    sector_bytes: int
    capacity_bytes: int | None
    latency: float
    on_operation: Callable[[Operation], None] | None
    model: Model = attrs.Factory(Model)
    initial: Model | None = None  # `model` before the first effect, copied when that comes
    history: list[tuple[int, Effect]] = attrs.Factory(list[tuple[int, Effect]])
    operations: list[Operation] = attrs.Factory(list[Operation])
    faults: list[Fault] = attrs.Factory(list[Fault])
    locks: dict[int, object] = attrs.Factory(dict[int, object])  # inode -> who holds it
    current: int = 0  # the operation under way
    open_counts: Counter[int] = attrs.Factory(Counter[int])  # inode -> how often it is open
    failed_syncs: Counter[int] = attrs.Factory(Counter[int])  # inode -> how often one failed
    links: Counter[int] | None = None  # inode -> how many names it has, once somebody asked
    gone: set[int] = attrs.Factory(set[int])  # directories that were removed
    watches: list[SimWatch] = attrs.Factory(list[SimWatch])  # the armed ones

    # -- operations and history

    def perform(
        self,
        operation: Operation,
        check_alive: Callable[[], None],
        effect: Callable[[], T],
        partial: Callable[[Fault], T] | None = None,
    ) -> T:
        """Do one numbered operation, unless a fault says otherwise."""
        operation.number = len(self.operations)
        self.operations.append(operation)
        hit = [fault for fault in self.faults if fault.hit_by(operation)]
        if self.on_operation is not None:
            self.on_operation(operation)
        try:
            check_alive()
            self.current = operation.number  # only now: the hook may have used the disk
            if not hit:
                return effect()
            fault = hit[0]
            if fault.after:
                effect()
            elif partial is not None:
                result = partial(fault)
                if fault.error is None:
                    return result
            raise fault.exception(operation.path)
        except OSError as error:
            operation.error = error.errno
            raise

    def apply(self, effect: Effect) -> None:
        if self.initial is None:
            self.initial = self.model.copy()
        self.history.append((self.current, effect))
        if self.links is None or not isinstance(effect, Link | Unlink | Rename):
            self.model.apply(effect)
        else:
            names = self.model.inodes[effect.ident].names
            self.links.subtract(names.values())
            self.model.apply(effect)
            self.links.update(names.values())
        if self.watches and isinstance(effect, Change):
            self.watches = [watch for watch in self.watches if not watch.hear(effect.ident)]

    def replay(self, stop: int) -> Iterator[tuple[int, Model, Sequence[Effect]]]:
        """Yield, before each operation that had an effect, its number, the disk and the effects.

        The last one is `stop` with no effects. The model is good until the next step only.
        """
        model = (self.initial or self.model).copy()
        history = self.history[:]
        at = 0
        while at < len(history) and history[at][0] < stop:
            number = history[at][0]
            end = at
            while end < len(history) and history[end][0] == number:
                end += 1
            effects = [effect for _, effect in history[at:end]]
            yield number, model, effects
            for effect in effects:
                model.apply(effect)
            at = end
        ahead = [effect for number, effect in history[at:] if number == stop]
        yield stop, model, ahead

    # -- inodes

    def place_of(self, ident: int) -> str | None:
        """Return the path of a directory that was not the root; None if it was removed."""
        found = (path for path, other, _ in self.model.walk() if other == ident)
        return next(found, None)

    def stat(self, ident: int) -> FileStat:
        """Describe a file. There are no times here; a file's own number tells it from another."""
        if self.links is None:
            self.links = Counter[int]()
            for inode in self.model.inodes.values():
                self.links.update(inode.names.values())
        size = self.model.inodes[ident].visible.size
        return FileStat((0, ident), size, self.links[ident], ident)

    # -- changes

    def write(self, ident: int, path: str, data: bytes, position: int) -> None:
        """Write what there is space for; OSError(ENOSPC) if that is not all."""
        size = self.model.inodes[ident].visible.size
        fits = min(len(data), max(0, size + self.room_bytes() - position))
        if fits:
            serial = self.model.serial
            self.apply(Data(ident, path, serial, position, data[:fits]))
            if position + fits > size:
                self.apply(Grow(ident, path, serial + 1, position + fits))
        if fits < len(data):
            raise os_error(errno.ENOSPC, path)

    def resize(self, ident: int, path: str, size: int, change: type[Grow | Cut]) -> None:
        old = self.model.inodes[ident].visible.size
        if size - old > self.room_bytes():
            raise os_error(errno.ENOSPC, path)
        if size != old:
            self.apply(change(ident, path, self.model.serial, size))

    def sync(self, ident: int, fault: Fault | None = None, since: int | None = None) -> None:
        """Make what is pending durable; a fault loses it, or (a lie) leaves it as it is.

        With `since` only the data of the changes from that one on, and the size.
        """
        if fault is not None and fault.error is not None:
            self.failed_syncs[ident] += 1
        if self.model.inodes[ident].pending:
            if fault is None:
                self.apply(Sync(ident) if since is None else SyncWrite(ident, since))
            elif fault.error is not None:
                self.apply(Lose(ident))

    def room_bytes(self) -> int:
        """Return how much longer files may become. A hole takes space like data does."""
        if self.capacity_bytes is None:
            return 1 << 40
        inodes = {ident: inode for _, ident, inode in self.model.walk()}
        # A file that was unlinked and is open still takes its space.
        inodes |= {ident: self.model.inodes[ident] for ident in +self.open_counts}
        return max(0, self.capacity_bytes - sum(inode.visible.size for inode in inodes.values()))


class Paths:
    """What paths lead to on one disk, as seen from its root, or from a directory that is held."""

    def __init__(self, store: Store, held: str = "", ident: int = ROOT) -> None:
        self._store = store
        self._held = held  # as it was given, without a slash at the end; "" is nothing
        self.ident = ident
        self.closed = False

    def find(self, path: str) -> int:
        """Return the inode of a path. FileNotFoundError, NotADirectoryError."""
        ident, names = ROOT, posixpath.normpath("/" + path).lstrip("/").split("/")
        if self.is_held(path):
            ident, names = self.ident, []
        elif self._held and parent_of(path) == self._held:
            ident, names = self.ident, names[-1:]
        if ident != ROOT and self.closed:
            raise os_error(errno.EBADF, path)
        for name in names:
            if not name:
                continue
            inode = self._store.model.inodes[ident]
            if not inode.is_dir:
                raise os_error(errno.ENOTDIR, path)
            if name not in inode.names:
                raise os_error(errno.ENOENT, path)
            ident = inode.names[name]
        return ident

    def is_held(self, path: str) -> bool:
        """Whether this is the path of the directory that is held."""
        return bool(self._held) and (path.rstrip("/") or "/") == self._held

    def exists(self, path: str) -> bool:
        try:
            self.find(path)
        except FileNotFoundError:
            return False
        return True

    def find_file(self, path: str) -> int:
        ident = self.find(path)
        if self._store.model.inodes[ident].is_dir:
            raise OSError(errno.EINVAL, "not a regular file; move it out of the way", path)
        return ident

    def find_dir(self, path: str) -> int:
        ident = self.find(path)
        if not self._store.model.inodes[ident].is_dir:
            raise os_error(errno.ENOTDIR, path)
        return ident

    def find_parent(self, path: str) -> tuple[int, str]:
        """Return the directory that holds the name `path`, and the name in it."""
        parent = self.find_dir(parent_of(path))
        if parent in self._store.gone:
            raise os_error(errno.ENOENT, path)  # nothing is made in what was removed
        return parent, posixpath.basename(posixpath.normpath(path))

    def make(self, path: str, *, is_dir: bool) -> int:
        store = self._store
        parent, name = self.find_parent(path)
        if name in store.model.inodes[parent].names:
            raise os_error(errno.EEXIST, path)
        ident = max(store.model.inodes) + 1
        store.apply(Make(ident, is_dir))
        store.apply(Link(parent, path, store.model.serial, name, ident))
        return ident

    def put(self, path: str, data: bytes) -> None:
        """Make `data` the content of a file, and everything about it durable."""
        if not self.exists(path):
            above = parent_of(path)
            missing: list[str] = []
            while not self.exists(above):
                missing.append(above)
                above = parent_of(above)
            for name in reversed(missing):
                self.make(name, is_dir=True)
                self._store.sync(self.find(parent_of(name)))
            self.make(path, is_dir=False)
            self._store.sync(self.find(parent_of(path)))
        ident = self.find_file(path)
        self._store.resize(ident, path, 0, Cut)
        self._store.write(ident, path, data, 0)
        self._store.sync(ident)

    def remove_tree(self, path: str) -> None:
        """Remove a directory and everything in it, the deepest first."""
        store = self._store
        ident = self.find_dir(path)
        for name, child in sorted(store.model.inodes[ident].names.items()):
            if store.model.inodes[child].is_dir:
                self.remove_tree(f"{path}/{name}")
            else:
                store.apply(Unlink(ident, f"{path}/{name}", store.model.serial, name, child))
        self.remove_dir(path, ident)

    def remove_dir(self, path: str, ident: int) -> None:
        store = self._store
        parent, name = self.find_parent(path)
        store.apply(Unlink(parent, path, store.model.serial, name, ident))
        store.gone.add(ident)

    def flip(self, path: str, position: int, bit: int) -> None:
        """Flip a bit of what is visible, and make that durable."""
        ident = self.find_file(path)
        old = self._store.model.inodes[ident].visible.read(1, position)
        if not old or not 0 <= bit <= 7:
            raise ValueError(f"{path} has no bit {bit} of byte {position}")
        self._store.sync(ident)
        self._store.write(ident, path, bytes([old[0] ^ 1 << bit]), position)
        self._store.sync(ident)
