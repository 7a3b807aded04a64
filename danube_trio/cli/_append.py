"""``danube-trio append``: records from stdin."""

from __future__ import annotations

import contextlib
import io
import json
import select
import sys
from typing import Any

import attrs
import click
import trio

from danube_trio._engine.log.open import open_wal
from danube_trio._engine.log.wal import Wal
from danube_trio.cli._failures import IO, InputError, give_up_output
from danube_trio.cli._input import Parsed, Parser, make_parser
from danube_trio.cli._progress import Bar, open_bar
from danube_trio.cli._say import complain, say
from danube_trio.cli._values import FORMATS, counted
from danube_trio.cli._words import in_words
from danube_trio.config import WalConfig
from danube_trio.errors import MessageTooLargeError

READ_BYTES = 1 << 20


class _Stdin:
    """The descriptor itself: a thread that still waits in it does not keep the program from ending,
    as it would with the lock of a buffered file."""

    def __init__(self) -> None:
        if sys.stdin is None:
            raise ValueError("stdin is closed: there is nothing to append")
        if sys.stdin.isatty():
            complain("appending what you type, line by line; Ctrl-D ends it")
        self._file = io.FileIO(sys.stdin.fileno(), closefd=False)

    def read(self) -> bytes:
        """What has arrived, waiting for it; nothing at the end."""
        while (data := self._file.read(READ_BYTES)) is None:  # non-blocking, and a pause
            select.select([self._file], [], [])
        return data

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
    """What is durable so far. With `acks` each batch is shown as soon as it is."""

    def __init__(self, *, as_json: bool, acks: bool) -> None:
        self.records = 0
        self.first: int | None = None
        self.last: int | None = None
        self._as_json = as_json
        self._acks = acks

    def add(self, offsets: range) -> None:
        if not offsets:
            return
        self.first = offsets.start if self.first is None else self.first
        self.last = offsets.stop - 1
        self.records += len(offsets)
        if self._acks:
            ack = [offsets.start, self.last]
            say(json.dumps({"acked": ack}) if self._as_json else f"acked {_span(*ack)}")

    def show(self, refused: InputError | None = None) -> None:
        """The end: all that was appended, and what was refused."""
        if self._as_json:
            fields = {
                "records": self.records,
                "first_offset": self.first,
                "last_offset": self.last,
                "refused": vars(refused) if refused is not None else None,
            }
            say(json.dumps(fields))
        elif self.records or refused is None:
            say(self.text())

    def text(self) -> str:
        if self.first is None or self.last is None:
            return "0 records"
        return f"{counted(self.records, 'record')}, {_span(self.first, self.last)}"


def _span(first: int, last: int) -> str:
    return f"offsets {first} to {last}"


@attrs.frozen
class _Run:
    """Everything that one run works with."""

    config: WalConfig
    stdin: _Stdin
    parser: Parser
    batch: int
    appended: _Appended
    bar: Bar


def append_stdin(
    directory: str,
    input_format: str,
    batch: int,
    codec: str | None,
    file_name: str,
    acks: bool,
    as_json: bool,
) -> None:
    """Run the command."""
    assert input_format in FORMATS
    settings: dict[str, Any] = {"codec": codec} if codec is not None else {}
    config = WalConfig(dir=directory, file_name=file_name, **settings)
    appended = _Appended(as_json=as_json, acks=acks)
    stdin = _Stdin()
    parser = make_parser(input_format, config.max_message_bytes)
    try:
        with open_bar("appending", stdin.size()) as bar:
            trio.run(_append, _Run(config, stdin, parser, batch, appended, bar))
    except InputError as error:
        _show_in_any_case(appended, error)
        raise _with_next_step(error, appended) from error
    except BrokenPipeError:  # of the acks: what is left of the input is not appended
        give_up_output()
        complain(f"stdout was closed, so appending ended early: {appended.text()}")
        click.get_current_context().exit(IO)
    except BaseException:
        if appended.records:  # however it ended, these are durable
            _show_in_any_case(appended)
        raise
    if not _show_in_any_case(appended):
        click.get_current_context().exit(IO)


def _show_in_any_case(appended: _Appended, refused: InputError | None = None) -> bool:
    """On stderr if stdout cannot be written, which must not look as if nothing was appended."""
    try:
        appended.show(refused)
    except BrokenPipeError:
        give_up_output()
    except OSError as error:
        give_up_output()
        complain(f"appended: {appended.text()}; stdout cannot be written: {error.strerror}")
        return False
    return True


def _with_next_step(error: InputError, appended: _Appended) -> InputError:
    which = f"{error.place} {error.number}"
    text = f"{error.reason}. "
    if appended.records:
        text += f"What comes before is appended ({appended.text()}). "
    text += f"Mend it, and go on with {which}"
    if error.place == "line" and error.number > 1:
        text += f" (tail -n +{error.number})"
    return InputError(error.place, error.number, text)


async def _append(run: _Run) -> None:
    async with open_wal(run.config) as wal:
        while True:
            data = await trio.to_thread.run_sync(run.stdin.read, abandon_on_cancel=True)
            parsed = run.parser.feed(data) if data else run.parser.finish()
            for start in range(0, len(parsed.messages), run.batch):
                part = slice(start, start + run.batch)
                await _append_batch(wal, run, Parsed(parsed.messages[part], parsed.numbers[part]))
            if run.parser.bad is not None:
                raise run.parser.bad
            if not data:
                return
            run.bar.advance(len(data))


async def _append_batch(wal: Wal, run: _Run, parsed: Parsed) -> None:
    """One batch. If the log refuses it, then one by one up to the message that it refuses."""
    try:
        run.appended.add(await wal.append_batch(parsed.messages))
    except (MessageTooLargeError, ValueError) as error:
        if len(parsed.messages) == 1:
            raise InputError(run.parser.place, parsed.numbers[0], in_words(error)) from error
        for message, number in zip(*parsed, strict=True):
            await _append_batch(wal, run, Parsed([message], [number]))
