"""``danube-trio append``: records from stdin."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import click
import trio

from danube_trio._open import open_wal
from danube_trio.cli._input import make_parser
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._values import FORMATS, counted
from danube_trio.config import WalConfig

__all__ = ["append_stdin"]

READ_BYTES = 1 << 20


class _Stdin:
    """The descriptor itself: a thread that still waits in it does not keep the program from ending,
    as it would with the lock of a buffered file."""

    def __init__(self) -> None:
        self._file = io.FileIO(sys.stdin.fileno(), closefd=False)

    def read(self) -> bytes:
        return self._file.read(READ_BYTES) or b""

    def size(self) -> int | None:
        """How many bytes are left, if that is known."""
        if not self._file.seekable():
            return None
        with contextlib.suppress(OSError):
            here = self._file.tell()
            end = self._file.seek(0, io.SEEK_END)
            self._file.seek(here)
            return end - here
        return None


class _Appended:
    """What is durable so far."""

    def __init__(self) -> None:
        self.records = 0
        self.first: int | None = None
        self.last: int | None = None

    def add(self, offsets: range) -> None:
        if offsets:
            self.first = offsets.start if self.first is None else self.first
            self.last = offsets.stop - 1
            self.records += len(offsets)

    def show(self, as_json: bool) -> None:
        if as_json:
            import json

            fields = {"records": self.records, "first_offset": self.first, "last_offset": self.last}
            click.echo(json.dumps(fields))
        elif self.records:
            click.echo(f"{counted(self.records, 'record')}, offsets {self.first} to {self.last}")
        else:
            click.echo("0 records")


def append_stdin(
    directory: str,
    input_format: str,
    batch: int,
    codec: str | None,
    file_name: str,
    as_json: bool,
) -> None:
    """Run the command."""
    assert input_format in FORMATS
    settings: dict[str, Any] = {"codec": codec} if codec is not None else {}
    config = WalConfig(dir=directory, file_name=file_name, **settings)
    appended = _Appended()
    stdin = _Stdin()
    try:
        with open_bar("appending", stdin.size()) as bar:
            trio.run(_append, config, stdin, input_format, batch, appended, bar)
    except BaseException:
        if appended.records:  # however it ended, these are durable
            appended.show(as_json)
        raise
    appended.show(as_json)


async def _append(
    config: WalConfig,
    stdin: _Stdin,
    input_format: str,
    batch: int,
    appended: _Appended,
    bar: Bar,
) -> None:
    parser = make_parser(input_format, config.max_message_bytes)
    async with open_wal(config) as wal:
        while True:
            data = await trio.to_thread.run_sync(stdin.read, abandon_on_cancel=True)
            for messages in _slices(parser.feed(data) if data else parser.finish(), batch):
                appended.add(await wal.append_batch(messages))
            if not data:
                return
            bar.advance(len(data))


def _slices(messages: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]
