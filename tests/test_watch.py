"""Offering statistics: what is said on the socket, to whom, and what nobody can do to the log."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import anyio.to_thread
import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from processes import holding

import danube_trio.anyio
import danube_trio.blocking
from danube_trio import (
    CloudConfig,
    LogLockedError,
    StorageConfig,
    WalConfig,
    open_follower,
    open_storage,
    open_wal,
)
from danube_trio._core.disk import read_file
from danube_trio._core.meters import Histogram
from danube_trio._core.plain import to_plain
from danube_trio._core.segment import LogNames
from danube_trio._core.stats import ReaderStatistics
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.watch import socket as watch_socket
from danube_trio._engine.watch.offer import MAX_TOPICS, StorageSource
from danube_trio._engine.watch.serve import (
    MAX_CLIENTS,
    MAX_REQUEST_BYTES,
    MAX_REST_SECONDS,
    REQUEST_SECONDS,
    SEND_SECONDS,
    Request,
    RequestError,
)
from danube_trio.watch import serve_statistics

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


class Client:
    """The other end, in trio."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def ask(self, request: object) -> None:
        data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        await self.stream.send_all(data)

    async def line(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        while b"\n" not in self._data:
            try:
                more = await self.stream.receive_some(1 << 20)
            except trio.BrokenResourceError:
                return None
            if not more:
                return None
            self._data += more
        line, _, self._data = self._data.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def rest(self) -> list[dict[str, Any]]:
        return [line async for line in self]

    async def __aiter__(self) -> AsyncGenerator[dict[str, Any]]:
        while (line := await self.line()) is not None:
            yield line


@asynccontextmanager
async def connected(path: object) -> AsyncGenerator[Client]:
    async with await trio.open_unix_socket(str(path)) as stream:
        yield Client(stream)


async def talk(path: object, request: object) -> list[dict[str, Any]]:
    """All that is said about a request, without the hello."""
    async with connected(path) as client:
        assert "schema" in (await client.line() or {})
        await client.ask(request)
        return await client.rest()


def as_json(value: object) -> Any:
    """As it comes out of the socket, without what changes with time, if there is such."""
    return steady(json.loads(json.dumps(to_plain(value))))


def steady(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in found if name not in ("tasks", "durable_lag_seconds")}


def say_all(path: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The same, blocking."""
    with watch_socket.dial(path, 60) as sock, sock.makefile("rb") as lines:
        lines.readline()
        sock.sendall(json.dumps(request).encode() + b"\n")
        return [json.loads(line) for line in lines]


def say_once(path: str) -> list[dict[str, Any]]:
    """What is said about the smallest request."""
    return say_all(path, {})


@attrs.define
class Counted:
    """Something with statistics."""

    value: object = 0
    calls: int = 0

    def statistics(self) -> object:
        self.calls += 1
        return self.value


# ---- what is said


async def test_a_client_is_told_who_it_is_what_there_is_and_when_it_ends(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path / "log", watch=True)) as wal:
        await wal.append_batch([b"a", b"b"])
        async with connected(tmp_path / "log/wal.watch") as client:
            hello = await client.line()
            assert hello is not None
            assert (hello["schema"], hello["kind"]) == (1, "wal")
            assert (hello["name"], hello["pid"]) == (str(tmp_path / "log"), os.getpid())
            await client.ask({"every": 0.05, "count": 3})
            lines = await client.rest()
    assert [sorted(line) for line in lines] == 3 * [["elapsed", "statistics", "time"]] + [["end"]]
    assert lines[0]["elapsed"] < lines[1]["elapsed"] < lines[2]["elapsed"]


async def test_the_figures_are_those_of_the_log(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        await wal.append_batch([b"a", b"b", b"c"])
        async with wal.reader() as reader:
            await reader.receive()
            snapshot, end = await talk(tmp_path / "wal.watch", {})
            assert steady(snapshot["statistics"]) == as_json(wal.statistics())
    assert snapshot["statistics"]["readers"] == [{"cursor": 1, "tier": "cache", "lag": 2}]
    assert end == {"end": "that was all"}


async def test_the_end_of_the_log_is_told(tmp_path: Path) -> None:
    async with connected_to_open_log(tmp_path) as (client, leave):
        await client.ask({"every": 3600})
        assert "statistics" in (await client.line() or {})
        leave()
        assert await client.rest() == [{"end": "the log was left"}]


@asynccontextmanager
async def connected_to_open_log(
    directory: Path,
) -> AsyncGenerator[tuple[Client, Callable[[], None]]]:
    """A client that has read the hello, and what has the log left."""
    leave = trio.Event()
    is_open = trio.Event()

    async def hold() -> None:
        async with open_wal(WalConfig(dir=directory, watch=True)):
            is_open.set()
            await leave.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await is_open.wait()
        async with connected(directory / "wal.watch") as client:
            assert "schema" in (await client.line() or {})
            yield client, leave.set
        leave.set()


async def test_two_clients_are_served_at_their_own_pace(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        async with connected(tmp_path / "wal.watch") as one, connected(tmp_path / "wal.watch") as b:
            for client, every in ((one, 0.05), (b, 3600)):
                await client.line()
                await client.ask({"every": every})
                assert "statistics" in (await client.line() or {})
            await wal.append(b"x")
            while (await one.line() or {})["statistics"]["next_offset"] != 1:
                pass
        assert wal.phase == "open"


async def test_an_offer_goes_with_its_log_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path, watch=True)):
        assert stat.S_ISSOCK((tmp_path / "wal.watch").stat().st_mode)
    assert not [name for name in os.listdir(tmp_path) if "watch" in name]
    async with open_wal(WalConfig(dir=tmp_path)):
        assert not [name for name in os.listdir(tmp_path) if "watch" in name]


async def test_a_cancelled_program_says_goodbye_too(tmp_path: Path) -> None:
    clients: list[Client] = []
    with trio.CancelScope() as scope:
        async with open_wal(WalConfig(dir=tmp_path, watch=True)):
            clients.append(Client(await trio.open_unix_socket(str(tmp_path / "wal.watch"))))
            await clients[0].line()
            await clients[0].ask({"every": 3600})
            await clients[0].line()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with clients[0].stream:
        assert await clients[0].rest() == [{"end": "the log was left"}]
    assert not (tmp_path / "wal.watch").exists()


# ---- what may not be asked


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b"GET / HTTP/1.1\r\n", "a line of JSON"),
        (b"\xff\xfe\x00\n", "a line of JSON"),
        (b"[1, 2]\n", "a JSON object"),
        (b"[" * 1000 + b"\n", "a line of JSON"),
        (b'{"every": 0.001}\n', "every: must be seconds"),
        (b'{"every": true}\n', "every: must be seconds"),
        (b'{"every": NaN}\n', "a line of JSON"),
        (b'{"every": 1, "count": 0}\n', "count: must be"),
        (b'{"every": 1, "count": 1.5}\n', "count: must be"),
        (b'{"topic": 7}\n', "topic: must be the name"),
        (b'{"topic": "/default/orders"}\n', "this is one wal"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "at most 1024 bytes"),
        (b'{"every": 1}\n{"every": 1}\n', "one request"),
    ],
)
async def test_rubbish_gets_an_answer_and_changes_nothing(
    request_line: bytes, answer: str, tmp_path: Path
) -> None:
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        async with connected(tmp_path / "wal.watch") as client:
            await client.line()
            await client.ask(request_line)
            lines = await client.rest()
        assert [list(line) for line in lines] == [["error"]]
        assert answer in lines[0]["error"]
        assert await wal.append(b"x") == 0
        assert len(await talk(tmp_path / "wal.watch", {})) == 2


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
FIELDS = st.dictionaries(st.sampled_from(["every", "count", "topic", "x"]), VALUES)


@given(st.binary() | FIELDS.map(lambda fields: json.dumps(fields).encode()))
def test_any_request_is_understood_or_refused(line: bytes) -> None:
    try:
        request = Request.parse(line)
    except RequestError:
        return
    assert request.every is None or 0.05 <= request.every <= 3600


async def test_who_says_more_than_its_request_is_left(tmp_path: Path) -> None:
    async with (
        open_wal(WalConfig(dir=tmp_path, watch=True)),
        connected(tmp_path / "wal.watch") as client,
    ):
        await client.ask({"every": 3600})
        await client.line()
        assert "statistics" in (await client.line() or {})
        await client.ask(b"and more\n")
        assert await client.rest() == []


async def test_no_more_than_a_few_may_watch(tmp_path: Path) -> None:
    path = tmp_path / "wal.watch"
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        clients = [Client(await trio.open_unix_socket(str(path))) for _ in range(MAX_CLIENTS)]
        for client in clients:
            assert "schema" in (await client.line() or {})
        for _ in range(3 * MAX_CLIENTS):
            async with connected(path) as refused:
                assert "watch already" in (await refused.line() or {})["error"]
                assert await refused.line() is None
        await wal.append(b"x")
        await clients.pop().stream.aclose()
        while True:  # until it was noticed
            async with connected(path) as client:
                if "schema" in (await client.line() or {}):
                    break
        for client in clients:
            await client.stream.aclose()


# ---- who is slow


async def test_a_client_that_takes_nothing_is_left_and_holds_up_nobody(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    counted = Counted("x" * (4 << 20))  # more than any socket takes
    path = tmp_path / "mine.watch"
    async with (
        open_wal(WalConfig()) as wal,
        serve_statistics(counted, path),
        connected(path) as client,
    ):
        await client.line()
        await client.ask({"every": 0.05})
        await trio.testing.wait_all_tasks_blocked()
        assert counted.calls == 1
        mock_clock.jump(SEND_SECONDS - 0.5)
        await trio.testing.wait_all_tasks_blocked()
        assert await wal.append(b"x") == 0
        assert counted.calls == 1  # no snapshot waits in line
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert await client.rest() == []  # the line was not finished
        assert counted.calls == 1


async def test_leaving_does_not_wait_for_a_client_that_takes_nothing(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with connected_to(tmp_path / "mine.watch", Counted("x" * (4 << 20))) as client:
        await client.ask({"every": 0.05})
        await trio.testing.wait_all_tasks_blocked()
    # The clock stands still: a wait with a timeout would have been one for ever.
    assert mock_clock.rate == 0
    assert not (tmp_path / "mine.watch").exists()


@asynccontextmanager
async def connected_to(path: Path, source: Counted) -> AsyncGenerator[Client]:
    """A client of a source; the source is left first."""
    stream: trio.SocketStream | None = None
    try:
        async with serve_statistics(source, path):
            stream = await trio.open_unix_socket(str(path))
            client = Client(stream)
            await client.line()
            yield client
    finally:
        if stream is not None:
            await stream.aclose()


async def test_a_client_that_asks_for_nothing_is_left(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with serve_statistics(Counted(), tmp_path / "mine.watch"):
        async with connected(tmp_path / "mine.watch") as client:
            await client.line()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(REQUEST_SECONDS + 1)
            assert await client.rest() == []


async def test_snapshots_are_shared_and_there_is_a_rest_between_them(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    class Costly(Counted):
        async def statistics(self) -> int:
            self.calls += 1
            await trio.sleep(1)
            return self.calls

    costly = Costly()
    async with serve_statistics(costly, tmp_path / "mine.watch") as path, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(path)) for _ in range(4)]
        for client in clients:
            await client.line()
            await client.ask({})
            await trio.testing.wait_all_tasks_blocked()
        assert costly.calls == 1
        for seconds, calls in ((1, 1), (MAX_REST_SECONDS - 0.5, 1), (1, 2), (1, 2)):
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()
            assert costly.calls == calls
        seen = [(await client.line() or {})["statistics"] for client in clients]
        assert seen == [1, 2, 2, 2]  # they asked while the first one was being made


# ---- other doors


def test_a_log_of_the_blocking_door_can_be_watched(tmp_path: Path) -> None:
    with danube_trio.blocking.open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        wal.append(b"x")
        snapshot, _ = say_all(str(tmp_path / "wal.watch"), {})
        assert steady(snapshot["statistics"]) == as_json(wal.statistics())
    assert not (tmp_path / "wal.watch").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_log_of_the_anyio_door_can_be_watched(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with danube_trio.anyio.open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
            await wal.append(b"x")
            path = str(tmp_path / "wal.watch")
            snapshot, _ = await anyio.to_thread.run_sync(say_once, path)
            assert steady(snapshot["statistics"]) == as_json(wal.statistics())

    anyio.run(main, backend=backend)


async def test_a_storage_shows_its_topics_and_each_of_them(tmp_path: Path) -> None:
    async with open_storage(StorageConfig(dir=tmp_path, watch=True)) as storage:
        await storage.append_batch("/default/orders", [b"a", b"b"])
        await storage.append_message("/default/returns", b"a")
        [name] = [name for name in os.listdir(tmp_path) if name.endswith(".watch")]
        path = tmp_path / name
        snapshot, _ = await talk(path, {})
        assert steady(snapshot["statistics"]) == as_json(storage.statistics())
        rows = [(row["topic"], row["next_offset"], row["phase"]) for row in snapshot["topics"]]
        assert rows == [("/default/orders", 2, "open"), ("/default/returns", 1, "open")]
        one, _ = await talk(path, {"topic": "/default/orders"})
        assert steady(one["statistics"]) == as_json(storage.topic_statistics("/default/orders"))
        assert await talk(path, {"topic": "/default/none"}) == [
            {"error": "topic /default/none is not open now"}
        ]
        [refused] = await talk(path, {"topic": "nonsense"})
        assert "/namespace/topic" in refused["error"]
        assert await storage.list_topics() == ["/default/orders", "/default/returns"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".watch")]


async def test_a_storage_with_a_thousand_topics_shows_the_busiest() -> None:
    async with open_wal(WalConfig()) as wal:
        found = wal.statistics()

    class Many:
        def statistics(self) -> Any:
            return {"open_topics": 1100}

        def open_topics(self) -> list[str]:
            return [f"/default/t{i}" for i in range(1100)]

        def topic_statistics(self, topic: str) -> Any:
            return attrs.evolve(found, appended_records=int(topic.removeprefix("/default/t")))

    snapshot = await StorageSource("many", Many()).snapshot(Request())
    assert len(snapshot["topics"]) == MAX_TOPICS
    assert snapshot["topics"][0]["topic"] == "/default/t1099"
    assert snapshot["topics_left_out"] == 100


async def test_a_topic_has_no_socket_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"wal: watch=True must be left out: StorageConfig"):
        StorageConfig(dir="x", wal=WalConfig(watch=True))


async def test_a_follower_and_a_log_in_memory_are_served_by_hand(tmp_path: Path) -> None:
    async with open_wal(WalConfig(dir=tmp_path / "log")) as wal:
        await wal.append(b"x")
        async with (
            open_follower(tmp_path / "log") as follower,
            serve_statistics(follower, tmp_path / "follower.watch") as path,
        ):
            snapshot, _ = await talk(path, {})
            assert steady(snapshot["statistics"]) == as_json(follower.statistics())
    async with open_wal(WalConfig()) as wal:
        async with serve_statistics(wal, tmp_path / "memory.watch", name="mine") as path:
            async with connected(path) as client:
                hello = await client.line()
            assert hello is not None
            assert (hello["kind"], hello["name"]) == ("wal", "mine")


async def test_statistics_may_be_awaited_for(tmp_path: Path) -> None:
    class Slow:
        async def statistics(self) -> dict[str, int]:
            await trio.lowlevel.checkpoint()
            return {"acked": 7}

    class Refusing:
        async def statistics(self) -> dict[str, int]:
            raise LogLockedError("there", "somebody")

    async with serve_statistics(Slow(), tmp_path / "a.watch") as path:
        snapshot, _ = await talk(path, {})
        assert snapshot["statistics"] == {"acked": 7}
    async with serve_statistics(Refusing(), tmp_path / "a.watch") as path:
        [refused] = await talk(path, {})
        assert "the statistics cannot be had" in refused["error"]


async def test_a_bug_in_statistics_ends_the_talk_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def statistics(self) -> object:
            raise RuntimeError("a bug")

    async with serve_statistics(Broken(), tmp_path / "a.watch") as path:
        assert await talk(path, {}) == []
        assert await talk(path, {}) == []
    assert "a bug" in caplog.text


async def test_what_the_body_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with serve_statistics(Counted(), tmp_path / "a.watch"):
            raise KeyError
    assert not (tmp_path / "a.watch").exists()


# ---- names


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
async def test_only_this_user_may_use_the_socket(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        async with serve_statistics(Counted(), tmp_path / "a.watch"):
            assert stat.S_IMODE((tmp_path / "a.watch").stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc goes round the limit on Linux only")
async def test_a_path_may_be_longer_than_a_sockets_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    file_name = f"{'w' * 140}.log"
    async with open_wal(WalConfig(dir=directory, file_name=file_name, watch=True)) as wal:
        await wal.append(b"x")
        path = str(directory / f"{'w' * 140}.watch")
        snapshot, _ = await trio.to_thread.run_sync(say_once, path)
        assert snapshot["statistics"]["next_offset"] == 1
    assert not [name for name in os.listdir(directory) if "watch" in name]


async def test_a_long_path_without_proc_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_socket, "_O_PATH", 0)
    with pytest.raises(OSError, match="use a shorter one") as caught:
        async with open_wal(WalConfig(dir=tmp_path / ("d" * 120), watch=True)):
            pass
    assert caught.value.errno == errno.ENAMETOOLONG
    async with open_wal(WalConfig(dir=tmp_path / ("d" * 120))):
        pass  # nothing was left locked


async def test_a_system_without_such_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="Unix domain sockets only, not on") as caught:
        async with open_wal(WalConfig(dir=tmp_path, watch=True)):
            pass
    assert caught.value.errno == errno.ENOTSUP


async def test_a_full_disk_does_not_keep_a_log_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(sock: socket.socket, address: str, path: str) -> None:
        raise OSError(errno.ENOSPC, "no space", path)

    monkeypatch.setattr(watch_socket, "_bind", full)
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        assert await wal.append(b"x") == 0
        assert not [name for name in os.listdir(tmp_path) if "watch" in name]
    assert "cannot be watched" in caplog.text


async def test_a_name_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.watch"
    async with serve_statistics(Counted(1), path):
        with pytest.raises(OSError, match="another program is watched by this name") as caught:
            async with serve_statistics(Counted(2), path):
                pass
        assert caught.value.errno == errno.EADDRINUSE
        snapshot, _ = await talk(path, {})
        assert snapshot["statistics"] == 1
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="not a socket"):
        async with serve_statistics(Counted(), path):
            pass
    assert path.read_text() == "mine"


async def test_a_name_that_somebody_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.watch"
    async with serve_statistics(Counted(), path):
        path.unlink()
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"


@pytest.mark.parametrize("path", ["a.sock", "a.watch\0", b"a.watch"])
def test_a_bad_path_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match="must be a path that ends in"):
        serve_statistics(Counted(), path)


def test_what_has_no_statistics_is_refused() -> None:
    with pytest.raises(TypeError, match="must have a method statistics"):
        serve_statistics(object(), "a.watch")  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="watch=1 must be True or False"):
        WalConfig(watch=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="watch=True needs a directory"):
        open_wal(WalConfig(watch=True))
    with pytest.raises(ValueError, match=r"reserved suffix \.watch"):
        WalConfig(file_name="wal.watch")
    assert CloudConfig() == WalConfig().cloud


# ---- programs that are gone


def kill(program: Popen[str]) -> None:
    program.kill()
    with program:
        program.wait()


def killed_log(directory: Path) -> Path:
    """The socket that a killed program left."""
    kill(holding("watched", directory))
    path = directory / "wal.watch"
    assert stat.S_ISSOCK(path.stat().st_mode)
    with pytest.raises(ConnectionRefusedError):
        watch_socket.dial(str(path), 1)
    return path


async def test_a_killed_programs_socket_is_replaced_or_removed_by_the_next(tmp_path: Path) -> None:
    path = killed_log(tmp_path)
    (tmp_path / ".watch.tmp").touch()  # as if it had been killed a moment before
    async with open_wal(WalConfig(dir=tmp_path, watch=True)) as wal:
        snapshot, _ = await talk(path, {})
        assert snapshot["statistics"]["next_offset"] == wal.next_offset == 3
        assert not (tmp_path / ".watch.tmp").exists()
    killed_log(tmp_path)
    async with open_wal(WalConfig(dir=tmp_path)):
        assert not path.exists()


def test_tools_take_a_socket_for_what_it_is(tmp_path: Path) -> None:
    path = killed_log(tmp_path)
    names, disk = LogNames.of(str(tmp_path), "wal.log"), RealDisk()
    findings = [f for f in Verification(disk, names) if f.path == str(path)]
    assert [(f.severity, f.reason) for f in findings] == [
        ("note", "a socket that a program left behind; the next open removes it")
    ]
    assert not [f for f in Verification(disk, names, live=True) if f.path == str(path)]
    with pytest.raises(OSError, match="not a regular file"):
        read_file(disk, str(path), 10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_keeps_no_socket_of_a_dead_program(tmp_path: Path) -> None:
    program = holding("forked", tmp_path)
    with watch_socket.dial(str(tmp_path / "wal.watch"), 60) as sock, sock.makefile("rb") as lines:
        assert lines.readline()
        program.send_signal(signal.SIGKILL)
        program.wait()
        assert lines.read() == b""
    with pytest.raises(ConnectionRefusedError):
        watch_socket.dial(str(tmp_path / "wal.watch"), 1)
    with program:
        assert program.stdin is not None
        program.stdin.close()  # the child ends


async def test_storages_of_one_root_do_not_disturb_each_other(tmp_path: Path) -> None:
    kill(holding("storage", tmp_path))
    assert len(sockets(tmp_path)) == 1
    config = StorageConfig(dir=tmp_path, watch=True)
    async with open_storage(config):
        [mine] = sockets(tmp_path)  # that of the killed one is gone
        assert f"-{os.getpid()}-" in mine
        with pytest.raises(LogLockedError):
            async with open_storage(config):
                pass
        assert sockets(tmp_path) == [mine]
    assert not sockets(tmp_path)


def sockets(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if "watch" in name]


def test_a_program_that_can_open_no_more_files_serves_later(tmp_path: Path) -> None:
    script = """
import os, resource, sys, threading, trio
from danube_trio import WalConfig, open_wal
from danube_trio._engine.watch.socket import dial

async def main():
    async with open_wal(WalConfig(dir=sys.argv[1], watch=True)) as wal:
        await wal.append(b"x")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        client = dial(sys.argv[1] + "/wal.watch", 60)
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert await wal.append(b"y") == 1
        for fd in held:
            os.close(fd)
        def read():
            with client, client.makefile("rb") as lines:
                return lines.readline()
        assert b"schema" in await trio.to_thread.run_sync(read)
trio.run(main)
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=ENVIRONMENT,
        check=True,
        stdin=subprocess.DEVNULL,
    )


# ---- plain data


def test_statistics_become_plain_whatever_they_hold() -> None:
    @attrs.frozen
    class Odd:
        nested: tuple[ReaderStatistics, ...] = (ReaderStatistics(1, "live", 0),)
        numbers: tuple[float, ...] = (1.5, float("inf"), float("nan"))
        mapping: dict[object, object] = attrs.Factory(lambda: {1: b"x", (1, 2): {3}})
        flag: bool = True
        nothing: None = None

    assert to_plain(Odd()) == {
        "nested": [{"cursor": 1, "tier": "live", "lag": 0}],
        "numbers": [1.5, None, None],
        "mapping": {"1": "b'x'", "[1, 2]": [3]},
        "flag": True,
        "nothing": None,
    }
    histogram = Histogram()
    histogram.add(0.001)
    assert sum(to_plain(histogram.view())["counts"]) == 1
    loop: list[object] = []
    loop.append(loop)
    assert json.dumps(to_plain(loop))
