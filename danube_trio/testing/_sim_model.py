"""What is on the simulated disk: inodes with a durable and a visible side. No paths, no clock.

`_sim_disk` has the theory. Here an *effect* is one thing that happened to one inode. The live disk
and the replay that finds crash states apply the same effects with the same code, so they cannot
differ. Some effects are *changes*: visible at once, durable only after a `Sync`, and until then
each kept or lost by a crash on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import attrs

ROOT = 1
PAGE_BYTES = 4096
_ZERO_PAGE = bytes(PAGE_BYTES)


class Content:
    """The bytes of a file: sparse, and cheap to copy (pages are shared until written).

    Pages may hold bytes at and after `size`, and `write` does not move it: data that reached the
    disk without the size that covers it.
    """

    __slots__ = ("_pages", "_shared", "size")

    def __init__(self) -> None:
        self.size = 0
        self._pages: dict[int, bytes] = {}
        self._shared = False

    def copy(self) -> Content:
        self._shared = True
        new = Content()
        new.size, new._pages, new._shared = self.size, self._pages, True
        return new

    def read(self, size: int, position: int) -> bytes:
        size = max(0, min(size, self.size - position))
        if size == 0:
            return b""
        first, start = divmod(position, PAGE_BYTES)
        last = (position + size - 1) // PAGE_BYTES
        pages = self._pages
        joined = b"".join([pages.get(page, _ZERO_PAGE) for page in range(first, last + 1)])
        return joined[start : start + size]

    def write(self, data: bytes, position: int) -> None:
        pages = self._own_pages()
        done = 0
        while done < len(data):
            page, start = divmod(position + done, PAGE_BYTES)
            part = data[done : done + PAGE_BYTES - start]
            if len(part) < PAGE_BYTES:
                old = pages.get(page, _ZERO_PAGE)
                part = old[:start] + part + old[start + len(part) :]
            pages[page] = part
            done += PAGE_BYTES - start

    def cut(self, size: int) -> None:
        """Set the size; whatever is at and after it becomes zeros."""
        pages = self._own_pages()
        whole, rest = divmod(size, PAGE_BYTES)
        for page in [page for page in pages if page >= whole]:
            old = pages.pop(page)
            if page == whole and rest:
                pages[page] = old[:rest] + _ZERO_PAGE[rest:]
        self.size = size

    def _own_pages(self) -> dict[int, bytes]:
        if self._shared:
            self._pages, self._shared = dict(self._pages), False
        return self._pages


@attrs.frozen(eq=False)
class Make:
    """A new inode. Invisible, and lost by a crash, as long as no directory names it."""

    ident: int
    is_dir: bool


@attrs.frozen(eq=False)
class Sync:
    """Everything pending on this inode is durable."""

    ident: int


@attrs.frozen(eq=False)
class SyncWrite:
    """A write that is its own sync: its bytes (from change `serial` on) and the size are durable.

    Bytes written before it stay as they were: only the pages of the write are waited for.
    """

    ident: int
    serial: int


@attrs.frozen(eq=False)
class Lose:
    """A failed sync: what is pending stays visible, and no later sync makes it durable."""

    ident: int


@attrs.frozen(eq=False)
class _Change:
    SAYS: ClassVar[str]

    ident: int
    path: str  # as the caller named the file or directory
    serial: int  # orders the changes of one disk

    def __str__(self) -> str:
        return self.SAYS.format(self)


@attrs.frozen(eq=False)
class Data(_Change):
    """Change: bytes written. Says nothing of the size."""

    SAYS = "data [{0.position}, {0.end})"

    position: int
    data: bytes

    @property
    def end(self) -> int:
        return self.position + len(self.data)

    def part(self, start: int, end: int) -> Data:
        data = self.data[start - self.position : end - self.position]
        return Data(self.ident, self.path, self.serial, start, data)


@attrs.frozen(eq=False)
class Grow(_Change):
    """Change: the size is at least `size`."""

    SAYS = "size {0.size}"

    size: int


@attrs.frozen(eq=False)
class Cut(_Change):
    """Change: the size is exactly `size`, and what was after it is gone."""

    SAYS = "truncation to {0.size}"

    size: int


@attrs.frozen(eq=False)
class Link(_Change):
    """Change of a directory: a new name."""

    SAYS = "creation of {0.name!r}"

    name: str
    target: int


@attrs.frozen(eq=False)
class Unlink(_Change):
    """Change of a directory: a name goes, if it still names that inode."""

    SAYS = "removal of {0.name!r}"

    name: str
    target: int


@attrs.frozen(eq=False)
class Rename(_Change):
    """Change of a directory: the inode has this name; what had it is replaced.

    It has no other name there but the `others` that it had by `link`.

    It needs nothing but the inode, so it also holds when the crash took the creation of `source`
    or an earlier rename. Were it otherwise, replacing a file by write, sync, rename could lose the
    old file and the new one, and no file system does that.
    """

    SAYS = "rename of {0.source!r} to {0.name!r}"

    source: str
    name: str
    target: int
    others: frozenset[str] = frozenset()


FileChange = Data | Grow | Cut
DirChange = Link | Unlink | Rename
Change = FileChange | DirChange
Effect = Make | Sync | SyncWrite | Lose | Change


def apply_to_file(content: Content, change: FileChange) -> None:
    if isinstance(change, Data):
        content.write(change.data, change.position)
    elif isinstance(change, Grow):
        content.size = max(content.size, change.size)
    else:
        content.cut(change.size)


def apply_to_dir(entries: dict[str, int], change: DirChange) -> None:
    if isinstance(change, Link):
        entries[change.name] = change.target
    elif isinstance(change, Unlink):
        if entries.get(change.name) == change.target:
            del entries[change.name]
    else:
        for name in [name for name, ident in entries.items() if ident == change.target]:
            if name not in change.others:
                del entries[name]
        entries[change.name] = change.target


@attrs.define(eq=False)
class Inode:
    """A file or a directory.

    A file uses the two contents, a directory the two mappings of names to idents. `pending` are
    the changes that are visible and not durable, oldest first.
    """

    is_dir: bool
    durable: Content = attrs.Factory(Content)
    visible: Content = attrs.Factory(Content)
    durable_names: dict[str, int] = attrs.Factory(dict[str, int])
    names: dict[str, int] = attrs.Factory(dict[str, int])
    pending: list[Change] = attrs.Factory(list[Change])

    def copy(self) -> Inode:
        return Inode(
            self.is_dir,
            self.durable.copy(),
            self.visible.copy(),
            dict(self.durable_names),
            dict(self.names),
            list(self.pending),
        )

    def crashed(self, kept: Iterable[Change]) -> Inode:
        """Return what a crash leaves that keeps these of the pending changes, in their order."""
        content, names = self.durable.copy(), dict(self.durable_names)
        _apply(content, names, kept)
        if any(isinstance(change, Data) for change in kept):
            content.cut(content.size)  # data beyond the size that was kept is not reachable
        return Inode(self.is_dir, content, content.copy(), names, dict(names))

    def settle(self, serial: int) -> None:
        """Make the size durable, and the data written from change `serial` on.

        Older data stays pending, but for what was cut or overwritten since: it is not in the page
        cache any more, so nothing can bring it back.
        """
        older: list[Change] = []
        for change in self.pending:
            assert isinstance(change, FileChange)
            if isinstance(change, Data) and change.serial < serial:
                older.append(change)
                continue
            apply_to_file(self.durable, change)
            if isinstance(change, Data):
                older = _without(older, change.position, change.end)
            elif isinstance(change, Cut):
                older = _without(older, change.size, None)
        self.durable.size = self.visible.size
        self.pending = older


def _without(changes: Iterable[Change], start: int, end: int | None) -> list[Change]:
    """Return what is left of the writes without the bytes `[start, end)`."""
    left: list[Change] = []
    for change in changes:
        assert isinstance(change, Data)
        for first, last in ((change.position, start), (end, change.end)):
            if first is not None and max(first, change.position) < min(last, change.end):
                left.append(change.part(max(first, change.position), min(last, change.end)))
    return left


def _apply(content: Content, names: dict[str, int], changes: Iterable[Change]) -> None:
    for change in changes:
        if isinstance(change, FileChange):
            apply_to_file(content, change)
        else:
            apply_to_dir(names, change)


class Model:
    """All inodes, by ident. The root directory always exists."""

    __slots__ = ("inodes", "serial")

    def __init__(self, inodes: dict[int, Inode] | None = None, serial: int = 0) -> None:
        self.inodes = inodes if inodes is not None else {ROOT: Inode(is_dir=True)}
        self.serial = serial  # of the next change

    def apply(self, effect: Effect) -> None:
        if isinstance(effect, Make):
            self.inodes[effect.ident] = Inode(effect.is_dir)
            return
        inode = self.inodes[effect.ident]
        if isinstance(effect, Sync):
            if inode.pending:
                _apply(inode.durable, inode.durable_names, inode.pending)
                inode.durable.size = inode.visible.size  # an inode is written as a whole
            inode.pending = []
        elif isinstance(effect, SyncWrite):
            inode.settle(effect.serial)
        elif isinstance(effect, Lose):
            inode.pending = []
        else:
            _apply(inode.visible, inode.names, (effect,))
            inode.pending.append(effect)
            self.serial = effect.serial + 1

    def pending(self) -> dict[int, Sequence[Change]]:
        """Return the changes that are not durable, by inode, oldest first."""
        return {ident: tuple(i.pending) for ident, i in self.inodes.items() if i.pending}

    def copy(self) -> Model:
        """Return the same disk, for a process that starts after another one was killed."""
        inodes = {ident: self.inodes[ident].copy() for ident in self._referenced()}
        return Model(inodes, self.serial)

    def crashed(self, kept: Mapping[int, Sequence[Change]]) -> Model:
        """Return the disk after a power cut that kept these of the pending changes."""
        inodes: dict[int, Inode] = {}
        todo = [ROOT]
        while todo:
            ident = todo.pop()
            inode = inodes[ident] = self.inodes[ident].crashed(kept.get(ident, ()))
            todo += inode.names.values()
        return Model(inodes)

    def walk(self, ident: int = ROOT, path: str = "") -> Iterator[tuple[str, int, Inode]]:
        """Yield path, ident and inode of everything visible below a directory, sorted."""
        for name, child in sorted(self.inodes[ident].names.items()):
            inode = self.inodes[child]
            yield f"{path}/{name}", child, inode
            if inode.is_dir:
                yield from self.walk(child, f"{path}/{name}")

    def _referenced(self) -> set[int]:
        """Return the inodes that a name, past or pending, can still bring back."""
        found: set[int] = set()
        todo = [ROOT]
        while todo:
            ident = todo.pop()
            if ident in found:
                continue
            found.add(ident)
            inode = self.inodes[ident]
            todo += inode.names.values()
            todo += inode.durable_names.values()
            todo += [c.target for c in inode.pending if isinstance(c, Link | Rename)]
        return found
