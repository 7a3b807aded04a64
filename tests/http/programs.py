"""Child processes of the tests that judge the server: heard line by line, no wait without a bound.

`Program` is any child. `Served` is a server on one directory and one port, which is killed and
comes back. Clients see what they would see of a crash: connections that break, connections that are
refused for a while, then the same address with what was durable.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from node import HERE, judges

__all__ = ["SERVERS", "Program", "Served"]

# Opening is far quicker; a machine that runs two such tests at once is given its time.
START_SECONDS = 60
END_SECONDS = 20
SERVERS = ("hypercorn", "uvicorn")
ROOT = HERE.parent.parent


class Program:
    """A child process; its stderr goes to `log`.

    `lines` has what it said on stdout, and the program itself where that ended. Several programs
    may share one: then who listens to one of them is told of the others' failures.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str],
        lines: queue.Queue[str | Program] | None = None,
    ) -> None:
        self.lines: queue.Queue[str | Program] = queue.Queue() if lines is None else lines
        self.log = log
        self._command = command
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=HERE,
            )
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(self)

    def failure(self, what: str) -> AssertionError:
        """What to raise about it: what was expected, whether it runs, and the end of its errors."""
        state = self.process.poll()
        says = "it still runs" if state is None else f"it ended with {state}"
        errors = self.log.read_text(errors="replace")[-4000:]
        return AssertionError(f"{self._command}: {what}; {says}; its errors: {errors or 'none'}")

    def hear(self, seconds: float, waited_for: str) -> str:
        """The next line; fails if none comes in that time, or a program has failed."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                raise self.failure(f"no {waited_for} within {seconds:.0f} s") from None
            if isinstance(line, str):
                return line
            line.wait(END_SECONDS)

    def hear_word(self, word: str, seconds: float) -> list[str]:
        """What follows that word, which begins a line; lines before it are dropped."""
        give_up = time.monotonic() + seconds
        while True:
            words = self.hear(max(0.0, give_up - time.monotonic()), repr(word)).split()
            if words[:1] == [word]:
                return words[1:]

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self, seconds: float) -> None:
        """Until it has ended by itself, without an error."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failure(f"it did not end within {seconds} s") from None
        if self.process.returncode != 0:
            raise self.failure("it failed")

    def kill(self) -> None:
        """SIGKILL, and wait for the end; idempotent."""
        self.process.kill()
        self.process.wait(END_SECONDS)
        self._ear.join(END_SECONDS)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a line that it did not read any more
            self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


class Served:
    """A server of streams on a directory of its own; it listens when the block begins.

    Its successor is started ahead and waits with everything imported: being away takes as long as
    opening the directory does.
    """

    def __init__(self, server: str, folder: Path, long_poll_seconds: float = 30.0) -> None:
        options = ["--dir", str(folder / "streams"), "--hold"]
        options += ["--long-poll-seconds", str(long_poll_seconds)]
        node = judges()
        if server == "reference":
            self._command = [str(node.command), str(HERE / "reference.mjs"), *options]
        else:
            self._command = [sys.executable, str(HERE / "serve.py"), "--server", server, *options]
        path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
        self._environment = node.environment(PYTHONPATH=path)
        self._log = folder / "server.log"
        self._next = self._load()
        self._running: Program | None = None
        self.port = 0
        self.kills = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def _load(self) -> Program:
        return Program(self._command, self._log, self._environment)

    def open(self) -> Program:
        """Let the next process open the directory, and do not wait for it."""
        assert self._running is None
        self._running, self._next = self._next, self._load()
        self._running.hear_word("loaded", START_SECONDS)
        self._running.tell(str(self.port))
        return self._running

    def start(self) -> None:
        """Come back, and take connections."""
        [port] = map(int, self.open().hear_word("listening", START_SECONDS))
        assert port == self.port or self.port == 0
        self.port = port

    def kill(self) -> None:
        """SIGKILL."""
        assert self._running is not None
        if self._running.process.poll() is not None:
            raise self._running.failure("it was to be killed, and had ended by itself")
        self._running.kill()
        self._running = None
        self.kills += 1

    def restart(self) -> None:
        """Killed, and back on the same directory and port."""
        self.kill()
        self.start()

    def complaints(self) -> str:
        """What it wrote to stderr, through all its lives: nothing, if all is well."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs, and the successor."""
        for program in (self._running, self._next):
            if program is not None:
                program.kill()
