"""Streams over HTTP, beside what the protocol's own suite asks (`tests/http`)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from http_client import ZERO, Client, Exchange, ask, scope_of, sent, until_tidy
from hypothesis import given
from hypothesis import strategies as st

from danube_trio import Storage, StorageConfig, WalConfig, open_storage
from danube_trio._core.plain import json_elements
from danube_trio.errors import StoreUnavailableError
from danube_trio.http import HttpConfig, open_streams
from danube_trio.http._live import events
from danube_trio.http._names import canonical
from danube_trio.http._read import Chunk
from danube_trio.http._request import Refusal
from danube_trio.http._writers import NOTE_RECORDS, PRODUCERS_BYTES
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimDisk

NOW = 1_800_000_000.0


class Clock:
    """A wall clock that is set by hand, and goes with trio's."""

    def __init__(self) -> None:
        self.ahead = NOW - trio.current_time()

    def __call__(self) -> float:
        return trio.current_time() + self.ahead


@asynccontextmanager
async def open_client(
    disk: SimDisk | None = None,
    config: HttpConfig | None = None,
    *,
    clock: Callable[[], float] = lambda: NOW,
    wal: WalConfig | None = None,
    **more: Any,
) -> AsyncGenerator[tuple[Client, Storage]]:
    disk = disk if disk is not None else SimDisk()
    settings = StorageConfig(dir="/data", wal=wal or WalConfig(preallocate_bytes=0))
    metadata = more.pop("metadata", None)
    async with (
        open_storage(settings, disk=disk, clock=clock, metadata=metadata) as storage,
        open_streams(storage, config, clock=clock, **more) as streams,
    ):
        yield Client(streams), storage


# ---- paths


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("a%00b", 400),
        ("a%0Ab", 400),
        ("..", 400),
        ("a/../b", 400),
        ("a/%2e%2E/b", 400),
        (".", 400),
        ("a//b", 400),
        ("a/", 400),
        ("", 400),
        ("%ff", 400),
        ("%C0%AE%C0%AE", 400),
        ("%ed%a0%80", 400),
        ("a%2", 400),
        ("a%zz", 400),
        ("a%7F", 400),
        ("x" * 1025, 414),
        ("%E2%82%AC" * 114, 414),
        ("x" * 1024, 201),
        ("a%2Fb", 201),
        ("%20%25", 201),
        ("%E2%82%AC", 201),
        ("CON", 201),
        ("~%3F", 201),
        ("-", 201),
    ],
)
async def test_a_path_is_a_stream_or_refused(path: str, status: int) -> None:
    async with open_client() as (client, storage):
        answer = await client.create(path, b"x")
        assert answer.status == status, answer.body
        topics = await storage.list_topics()
        assert len(topics) == (status == 201)
        if status == 201:
            assert await client.read_all(path) == b"x"
            assert topics[0].startswith("/streams/")


def _encoded(text: str, how: list[int]) -> bytes:
    """A segment in one of the many ways to write it."""
    out = b""
    for number, byte in enumerate(text.encode()):
        plain = chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-._~")
        way = how[number % len(how)] if how else 0
        if plain and way == 0:
            out += bytes([byte])
        else:
            out += (b"%%%02X" if way < 2 else b"%%%02x") % byte
    return out


SEGMENT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6).filter(
    lambda text: text not in (".", "..")
)
PATH = st.lists(SEGMENT, min_size=1, max_size=4)
HOW = st.lists(st.integers(0, 2), max_size=5)


@given(PATH, PATH, HOW, HOW)
def test_two_paths_are_the_same_exactly_if_their_segments_are(
    one: list[str], other: list[str], how: list[int], too: list[int]
) -> None:
    first = canonical(b"/".join(_encoded(part, how) for part in one), 3072)
    again = canonical(b"/".join(_encoded(part, too) for part in one), 3072)
    second = canonical(b"/".join(_encoded(part, too) for part in other), 3072)
    assert first == again
    assert (first == second) == (one == other)


@given(st.binary(max_size=40))
def test_whatever_bytes_a_path_has_it_is_taken_or_refused(raw: bytes) -> None:
    try:
        path = canonical(raw, 1024)
    except Refusal as refusal:
        assert refusal.status in (400, 414)
    else:
        assert canonical(path.encode(), 1024) == path


async def test_streams_are_below_the_place_where_they_are_mounted() -> None:
    async with open_client() as (client, _):
        for root, path in (("/app", "/app/a%2Fb"), ("/app/", "/app/d"), ("/x%20y", "/x%20y/c")):
            scope = scope_of("PUT", path)
            scope["root_path"] = root.replace("%20", " ")
            exchange = Exchange(client.app, scope, b"")
            await exchange.run()
            assert exchange.status == 201
            assert exchange.headers["location"] == f"http://test{path}"
        assert (await client.head("a%2Fb")).status == 200
        assert (await client.head("a/b")).status == 404


async def test_a_server_that_gives_no_raw_path_is_understood() -> None:
    async with open_client() as (client, _):
        scope = scope_of("PUT", "/a%20b/%E2%82%AC")
        del scope["raw_path"]
        exchange = Exchange(client.app, scope, b"")
        await exchange.run()
        assert exchange.status == 201
        assert (await client.head("a%20b/%E2%82%AC")).status == 200


# ---- bodies


async def test_a_body_that_is_too_large_is_refused_and_not_kept() -> None:
    async with open_client(config=HttpConfig(max_body_bytes=100)) as (client, _):
        await client.create("a")
        assert (await client.append("a", b"x" * 101)).status == 413
        honest = {"content-type": "text/plain", "content-length": "101"}
        assert (await client.ask("POST", "a", b"x" * 101, honest)).status == 413
        assert (await client.append("a", b"x" * 100)).status == 204
        assert await client.read_all("a") == b"x" * 100


async def test_a_body_that_takes_too_long_is_refused(autojump_clock: object) -> None:
    async with open_client(config=HttpConfig(body_seconds=5)) as (client, _):
        await client.create("a")
        sent_messages: list[Any] = []

        async def receive() -> Any:
            await trio.sleep(2)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            sent_messages.append(message)

        scope = scope_of("POST", "/a", {"content-type": "text/plain"})
        await client.app(scope, receive, send)
        assert sent_messages[0]["status"] == 408
        assert await client.read_all("a") == b""


async def test_bodies_that_come_slowly_take_a_bounded_amount_of_memory(
    autojump_clock: object,
) -> None:
    config = HttpConfig(max_body_bytes=100, max_bodies_bytes=250, body_seconds=50)
    async with open_client(config=config) as (client, _), trio.open_nursery() as nursery:
        await client.create("a")
        statuses: list[int] = []

        async def slow() -> None:
            pieces = [b"x" * 90, b""]

            async def receive() -> Any:
                if len(pieces) == 1:
                    await trio.sleep(10)
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

            async def send(message: Any) -> None:
                statuses.append(message.get("status", 0))

            scope = scope_of("POST", "/a", {"content-type": "text/plain"})
            await client.app(scope, receive, send)

        for _ in range(3):
            nursery.start_soon(slow)
        await trio.sleep(1)
        assert [status for status in statuses if status] == [503]
        assert (await client.append("a", b"y" * 60)).status == 204
        await trio.sleep(20)
        assert sorted(status for status in statuses if status) == [204, 204, 503]
        assert (await client.append("a", b"y" * 100)).status == 204
        assert len(await client.read_all("a")) == 60 + 2 * 90 + 100


async def test_who_goes_away_in_the_middle_of_a_body_has_sent_nothing() -> None:
    async with open_client() as (client, _):
        await client.create("a")
        inbox = [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Any:
            return inbox.pop(0)

        async def send(message: Any) -> None:
            raise AssertionError(message)

        await client.app(scope_of("POST", "/a", {"content-type": "text/plain"}), receive, send)
        assert await client.read_all("a") == b""


async def test_a_message_larger_than_the_log_takes_is_413() -> None:
    wal = WalConfig(preallocate_bytes=0, max_message_bytes=50)
    async with open_client(wal=wal) as (client, _):
        await client.create("a")
        assert (await client.append("a", b"x" * 51)).status == 413
        assert (await client.create("b", b"x" * 51)).status == 413
        assert (await client.head("b")).status == 404


# ---- JSON


@pytest.mark.parametrize(
    ("body", "elements"),
    [
        (b"1", [b"1"]),
        (b" [1 , 2]\n", [b"1", b"2"]),
        (b"[]", []),
        (b"[[]]", [b"[]"]),
        (b'{"a": 1, "a": 2}', [b'{"a": 1, "a": 2}']),
        (b"[1e400, 123456789012345678901234567890]", [b"1e400", b"123456789012345678901234567890"]),
        (b'["\\ud800"]', [b'"\\ud800"']),
        ('["€"]'.encode(), ['"€"'.encode()]),
        (b"[[1,2],[3]]", [b"[1,2]", b"[3]"]),
        (b"null", [b"null"]),
    ],
)
def test_the_elements_of_an_array_stay_as_they_are_written(
    body: bytes, elements: list[bytes]
) -> None:
    assert json_elements(body) == elements


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"[1],", b"1 2", b"]", b"{"),
        *(b"NaN", b"[Infinity]", b"-Infinity", b"'a'", b'"\x01"', b"\xff", b'{"a":}', b"+1", b"01"),
        *(b"\xef\xbb\xbf1", b"[" * 100_000, b"[" * 100 + b"]" * 100, b'{"a":' * 100_000),
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_elements(body)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.lists(JSON_VALUE, max_size=5), st.integers(0, 3))
def test_elements_are_those_of_the_array(values: list[Any], indent: int) -> None:
    try:
        body = json.dumps(values, indent=indent or None, allow_nan=False).encode()
    except ValueError:
        return  # an infinity
    found = [json.loads(element) for element in json_elements(body)]
    assert json.dumps(found) == json.dumps(values)


# ---- producers


async def test_two_of_a_producers_batches_cannot_both_be_new() -> None:
    async with open_client() as (client, _):
        await client.create("a")
        statuses: list[int] = []

        async def send() -> None:
            statuses.append((await client.append("a", b"x", **sent("p", 0, 0))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send)
        assert sorted(statuses) == [200] + [204] * 9
        assert await client.read_all("a") == b"x"


async def test_producers_are_known_after_the_server_was_started_again() -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await client.create("a", kind="application/json")
        kind = "application/json"
        await client.append("a", b"[1,2]", kind, **sent("p", 3, 0))
        await client.append("a", b"[3]", kind, **sent("p", 3, 1), stream_seq="b")
        await client.append("a", b"4", kind)
    async with open_client(disk) as (client, _):
        again = await client.append("a", b"[3]", kind, **sent("p", 3, 1), stream_seq="b")
        assert (again.status, again.headers["producer-seq"]) == (204, "1")
        assert (await client.append("a", b"[3]", kind, **sent("p", 2, 9))).status == 403
        assert (await client.append("a", b"5", kind, stream_seq="b")).status == 409
        assert (await client.append("a", b"5", kind, **sent("p", 3, 3))).status == 409
        assert (await client.append("a", b"5", kind, **sent("p", 3, 2))).status == 200
        assert (await client.read("a")).body == b"[1,2,3,4,5]"


async def test_a_closed_stream_answers_what_its_producer_sent_before() -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await client.create("a")
        await client.append("a", b"1", **sent("p", 0, 0))
        await client.append("a", b"2", **sent("p", 0, 1))
        assert (await client.close("a", b"3", **sent("p", 0, 2))).status == 200
    async with open_client(disk) as (client, _):
        for seq in range(3):
            answer = await client.append("a", b"x", **sent("p", 0, seq))
            assert (answer.status, answer.closed) == (204, True)
            assert answer.headers["producer-seq"] == "2"
        answer = await client.append("a", b"x", **sent("p", 0, 3))
        assert (answer.status, answer.closed) == (409, True)
        assert (await client.append("a", b"x", **sent("q", 0, 0))).status == 409
        assert await client.read_all("a") == b"123"


async def test_opening_reads_from_the_last_note_on(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, storage):
        await client.create("a")
        for seq in range(NOTE_RECORDS + 5):
            await client.append("a", b"x", **sent("p", 0, seq))
        await client.append("a", b"x", **sent("q", 7, 0))
        with trio.fail_after(1000):
            while not await storage.metadata.list_entries("/danube/http/writers/"):  # noqa: ASYNC110
                await trio.sleep(1)
        await client.append("a", b"x", **sent("r", 0, 0))
        [note] = await storage.metadata.list_entries("/danube/http/writers/")
        assert json.loads(note.value)["end"] >= NOTE_RECORDS
    async with open_client(disk) as (client, _):
        assert (await client.append("a", b"x", **sent("p", 0, NOTE_RECORDS + 4))).status == 204
        assert (await client.append("a", b"x", **sent("q", 7, 0))).status == 204
        assert (await client.append("a", b"x", **sent("r", 0, 0))).status == 204


async def test_the_producers_that_are_remembered_have_a_bound() -> None:
    async with open_client() as (client, _):
        await client.create("a")
        many = PRODUCERS_BYTES // 200
        for number in range(many + 10):
            name = f"{number:0200d}"
            assert (await client.append("a", b"x", **sent(name, 0, 0))).status == 200
        last, first = f"{many + 9:0200d}", f"{0:0200d}"
        assert (await client.append("a", b"x", **sent(last, 0, 0))).status == 204
        assert (await client.append("a", b"x", **sent(first, 0, 1))).status == 409


@pytest.mark.parametrize(
    "headers",
    [
        {"producer-id": "p"},
        {"producer-id": "p", "producer-epoch": "0"},
        {"producer-id": "", "producer-epoch": "0", "producer-seq": "0"},
        {"producer-id": "p" * 257, "producer-epoch": "0", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "-1", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "00", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "1.0", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "9007199254740992", "producer-seq": "0"},
        {"producer-id": "p", "producer-epoch": "\xb2", "producer-seq": "0"},
        {"stream-seq": ""},
        {"stream-seq": "s" * 257},
    ],
)
async def test_bad_headers_of_an_append_are_400(headers: dict[str, str]) -> None:
    async with open_client() as (client, _):
        await client.create("a")
        answer = await client.ask("POST", "a", b"x", {"content-type": "text/plain", **headers})
        assert answer.status == 400
        assert await client.read_all("a") == b""


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text"},
        {"content-type": "text/plain\x00"},
        {"content-type": "a/" + "b" * 300},
        {"stream-ttl": "1", "stream-expires-at": "2030-01-01T00:00:00Z"},
        {"stream-ttl": "99999999999999999999"},
        {"stream-expires-at": "2030-02-30T00:00:00Z"},
        {"stream-expires-at": "2030-01-01"},
        {"stream-expires-at": "2030-01-01T00:00:00"},
        {"stream-fork-offset": ZERO},
        {"stream-forked-from": "/a", "stream-fork-offset": "12"},
        {"stream-forked-from": "/a", "stream-fork-sub-offset": "1"},
        {"stream-forked-from": "/%ff"},
    ],
)
async def test_bad_headers_of_a_creation_are_400(headers: dict[str, str]) -> None:
    async with open_client() as (client, storage):
        await client.create("a", b"x")
        assert (await client.ask("PUT", "b", b"", headers)).status == 400
        assert len(await storage.list_topics()) == 1


# ---- beginnings and ends


async def test_of_many_who_create_the_same_stream_one_does() -> None:
    async with open_client() as (client, storage):
        statuses: list[int] = []

        async def put() -> None:
            statuses.append((await client.create("a", b"x")).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(put)
        assert sorted(statuses) == [200] * 9 + [201]
        assert await client.read_all("a") == b"x"
        assert len(await storage.list_topics()) == 1


async def test_there_is_a_limit_on_streams() -> None:
    async with open_client(config=HttpConfig(max_streams=2)) as (client, _):
        assert (await client.create("a")).status == 201
        assert (await client.create("b")).status == 201
        assert (await client.create("c")).status == 429
        assert (await client.create("a")).status == 200
        await client.delete("b")
        assert (await client.create("c")).status == 201


async def test_what_is_deleted_frees_its_disk(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, storage):
        await client.create("a", b"x" * 1000)
        await client.append("a", b"y" * 1000)
        assert any("/streams/" in path for path in disk.tree())
        await client.delete("a")
        await client.create("a", b"new")
        await until_tidy(storage)
        assert await client.read_all("a") == b"new"
        topics = {path.split("/")[3] for path in disk.tree() if path.startswith("/data/streams/")}
        assert len(topics) == 1


async def test_reading_and_writing_renew_a_time_to_live_and_looking_does_not(
    autojump_clock: object,
) -> None:
    clock = Clock()
    async with open_client(clock=clock) as (client, _):
        await client.create("a", b"x", stream_ttl="100")
        for use in (client.read("a"), client.append("a", b"y"), client.read("a", "now")):
            await trio.sleep(90)
            assert (await use).status in (200, 204)
        await trio.sleep(90)
        assert (await client.head("a")).status == 200
        await trio.sleep(11)
        assert (await client.read("a")).status == 404
        assert (await client.create("a")).status == 201
        assert await client.read_all("a") == b""


async def test_a_restart_ends_no_stream_early_and_none_lives_for_ever(
    autojump_clock: object,
) -> None:
    clock, disk = Clock(), SimDisk()
    async with open_client(disk, clock=clock) as (client, _):
        await client.create("a", b"x", stream_ttl="1000")
        await trio.sleep(900)
        await client.read("a")
    for _ in range(3):  # each restart is a chance to forget the last use, or to begin anew
        await trio.sleep(300)
        async with open_client(disk.crash(), clock=clock) as (client, _):
            assert (await client.head("a")).status == 200
    await trio.sleep(250)
    async with open_client(disk.crash(), clock=clock) as (client, _):
        await trio.sleep(10)
        assert (await client.head("a")).status == 404


async def test_a_clock_that_jumps_hides_streams_and_deletes_none(autojump_clock: object) -> None:
    clock, disk = Clock(), SimDisk()
    async with open_client(disk, clock=clock) as (client, storage):
        await client.create("a", b"x", stream_expires_at="2030-01-01T00:00:00Z")
        clock.ahead += 20 * 366 * 86_400
        assert (await client.read("a")).status == 404
        assert (await client.create("a", b"other")).status == 404
        await trio.sleep(60)
        clock.ahead -= 20 * 366 * 86_400
        assert await client.read_all("a") == b"x"
        clock.ahead += 20 * 366 * 86_400
        await trio.sleep(4000)  # it has stood for long enough
        assert (await client.read("a")).status == 404
        assert not await storage.metadata.list_entries("/danube/http/streams/")


async def test_ten_thousand_streams_are_opened_without_their_logs() -> None:
    metadata, disk = MemoryMetadata(), SimDisk()
    async with open_client(disk, metadata=metadata) as (client, _):
        await client.create("s0", b"x")
        [entry] = await metadata.list_entries("/danube/http/streams/")
        for number in range(1, 10_000):
            value = entry.value.replace(b"s0", b"s%d" % number)
            await metadata.put(f"/danube/http/streams/s{number}", value)
    before = disk.op_count
    async with open_client(disk, metadata=metadata) as (client, storage):
        assert disk.op_count - before < 10
        assert not storage.open_topics()
        assert (await client.head("s9999")).status == 200
        assert len(storage.open_topics()) == 1


# ---- waiting


async def test_who_waits_holds_no_log_open(autojump_clock: object) -> None:
    settings = HttpConfig(sse_seconds=3600)
    async with open_client(config=settings) as (client, storage):
        exchanges: list[Exchange] = []
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                await client.create(f"s{number}")
                target = f"/s{number}?offset=-1&live=sse"
                exchange = Exchange(client.app, scope_of("GET", target), b"")
                exchanges.append(exchange)
                nursery.start_soon(exchange.run)
            for exchange in exchanges:
                await exchange.until(b"upToDate")
            await trio.sleep(storage.config.idle_seconds * 3)
            assert not storage.open_topics()
            await client.append("s17", b"hello")
            await exchanges[17].until(b"hello")
            for exchange in exchanges:
                exchange.gone.set()


async def who_waits(client: Client, nursery: trio.Nursery, live: str) -> Exchange:
    """Somebody who waits at the end of a new stream."""
    await client.create("a")
    target = f"/a?offset={ZERO}&live={live}"
    exchange = Exchange(client.app, scope_of("GET", target), b"")
    nursery.start_soon(exchange.run)
    await trio.testing.wait_all_tasks_blocked()
    return exchange


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_wait_ends_when_the_stream_is_deleted(live: str, autojump_clock: object) -> None:
    async with open_client() as (client, _), trio.open_nursery() as nursery:
        exchange = await who_waits(client, nursery, live)
        began = trio.current_time()
        await client.delete("a")
        await trio.testing.wait_all_tasks_blocked()
        assert exchange.over
        assert exchange.status == (404 if live == "long-poll" else 200)
        assert trio.current_time() - began < 1


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_wait_ends_when_the_server_stops(live: str, autojump_clock: object) -> None:
    async with open_client() as (client, _), trio.open_nursery() as nursery:
        exchange = await who_waits(client, nursery, live)
        client.app.stop()  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        assert exchange.over
        assert exchange.status == (204 if live == "long-poll" else 200)
        again = await ask(client.app, "GET", f"/a?offset={ZERO}&live={live}")
        assert again.status == 503
        assert (await client.append("a", b"x")).status == 204


async def test_waiting_readers_have_a_limit_and_who_goes_frees_a_seat(
    autojump_clock: object,
) -> None:
    async with open_client(config=HttpConfig(max_waiting=2)) as (client, _):
        await client.create("a")
        target = f"/a?offset={ZERO}&live="
        first = Exchange(client.app, scope_of("GET", target + "sse"), b"")
        second = Exchange(client.app, scope_of("GET", target + "long-poll"), b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run)
            nursery.start_soon(second.run)
            await trio.testing.wait_all_tasks_blocked()
            assert (await ask(client.app, "GET", target + "sse")).status == 429
            assert (await ask(client.app, "GET", target + "long-poll")).status == 429
            first.gone.set()
            second.gone.set()
        assert (await ask(client.app, "GET", target + "long-poll")).status == 204


def parsed(text: bytes) -> list[tuple[str, str]]:
    """The events of an SSE answer, as the HTML standard has them read."""
    found: list[tuple[str, str]] = []
    for event in text.decode().split("\n\n"):
        kind, lines = "message", list[str]()
        for line in event.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "data":
                lines.append(value)
        if lines:
            found.append((kind, "\n".join(lines)))
    return found


@given(st.text(st.sampled_from("a :\n\rdataevent{}\u20ac\0"), min_size=1, max_size=30))
def test_a_text_comes_out_of_its_events_as_it_went_in(text: str) -> None:
    chunk = Chunk(0, 1, [text.encode()], up_to_date=True, closed=False)
    (data, found), (control, _) = parsed(events("text/plain", chunk, "7"))
    assert (data, control) == ("data", "control")
    assert found == text.replace("\r\n", "\n").replace("\r", "\n")


async def test_an_sse_answer_ends_after_its_time(autojump_clock: object) -> None:
    async with open_client(config=HttpConfig(sse_seconds=30)) as (client, _):
        await client.create("a")
        began = trio.current_time()
        answer = await ask(client.app, "GET", f"/a?offset={ZERO}&live=sse")
        assert 29 < trio.current_time() - began < 31
        assert answer.body.count(b"event: control") == 1


# ---- what fails


async def test_after_a_failed_sync_nothing_is_doubled_and_nothing_acknowledged_is_lost(
    autojump_clock: object,
) -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await client.create("a", b"0")
        fault = disk.fail("sync_data", path_contains="/streams/", sticky=True)
        answer = await client.append("a", b"1", **sent("p", 0, 0))
        assert answer.status == 503
        assert answer.headers["retry-after"]
        fault.cancel()
        with trio.fail_after(1000):
            while (await client.append("a", b"1", **sent("p", 0, 0))).status == 503:  # noqa: ASYNC110
                await trio.sleep(1)
        assert (await client.append("a", b"2", **sent("p", 0, 1))).status == 200
        assert await client.read_all("a") == b"012"


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at a step of the task that makes this."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def test_an_append_that_is_cancelled_at_any_step_happens_once_or_not_at_all() -> None:
    for step in range(1, 40):
        async with open_client() as (client, _):
            await client.create("a")
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await client.append("a", b"x", **sent("p", 0, 0))
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            before = await client.read_all("a")
            again = await client.append("a", b"x", **sent("p", 0, 0))
            assert again.status == (204 if before else 200)
            assert await client.read_all("a") == b"x"
            if not scope.cancelled_caught:
                return
    raise AssertionError("it was cancelled at every step")


async def test_a_creation_that_is_cancelled_at_any_step_leaves_nothing_half_done(
    autojump_clock: object,
) -> None:
    for step in range(1, 80):
        async with open_client() as (client, storage):
            await client.create("a", b"hello")
            more = {"stream_fork_offset": ZERO, "stream_fork_sub_offset": "2"}
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await client.fork("b", "a", b"!", **more)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await trio.sleep(100)
            there = (await client.head("b")).status == 200
            assert len(await storage.list_topics()) == 1 + there
            assert not await storage.metadata.list_entries("/danube/http/trash/")
            assert (await client.fork("b", "a", b"!", **more)).status == (200 if there else 201)
            assert await client.read_all("b") == b"he!"
            if not scope.cancelled_caught:
                return
    raise AssertionError("it was cancelled at every step")


class Flaky(MemoryMetadata):
    """Does what it is asked, and says that it does not know; or does nothing."""

    fails: str = ""

    async def transact(self, *args: Any, **more: Any) -> int | None:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise StoreUnavailableError("no answer")
        found = await super().transact(*args, **more)
        if fails == "after":
            raise StoreUnavailableError("no answer")
        return found


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_creation_whose_outcome_is_unknown_is_found_out(
    fails: str, autojump_clock: object
) -> None:
    metadata = Flaky()
    async with open_client(metadata=metadata) as (client, storage):
        metadata.fails = fails
        assert (await client.create("a", b"x")).status == 503
        again = await client.create("a", b"x")
        assert again.status == (201 if fails == "before" else 200)
        assert await client.read_all("a") == b"x"
        await trio.sleep(100)
        assert await client.read_all("a") == b"x"
        assert len(await storage.list_topics()) == 1


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_deletion_whose_outcome_is_unknown_is_found_out(
    fails: str, autojump_clock: object
) -> None:
    metadata = Flaky()
    async with open_client(metadata=metadata) as (client, storage):
        await client.create("a", b"x")
        metadata.fails = fails
        assert (await client.delete("a")).status == 503
        assert (await client.delete("a")).status == (204 if fails == "before" else 404)
        await trio.sleep(100)
        assert not await storage.list_topics()
        assert not await metadata.list_entries("/danube/http/")


# ---- who may what


@attrs.frozen
class Rights:
    actions: tuple[str, ...]
    prefix: str = ""

    def may(self, action: str, path: str) -> bool:
        return action in self.actions and path.startswith(self.prefix)


async def test_rights_are_asked_for_each_request() -> None:
    known = {"Bearer all": Rights(("read", "write")), "Bearer r": Rights(("read",), "pub/")}

    def authenticate(scope: Any) -> Rights | None:
        return known.get(dict(scope["headers"]).get(b"authorization", b"").decode())

    async with open_client(authenticate=authenticate) as (client, _):
        everything, reader = {"authorization": "Bearer all"}, {"authorization": "Bearer r"}
        nobody = await client.create("a")
        assert (nobody.status, nobody.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.create("pub/a", b"x", **everything)).status == 201
        assert (await client.create("b", b"x", **everything)).status == 201
        assert (await client.read("pub/a", **reader)).body == b"x"
        assert (await client.read("b", **reader)).status == 403
        assert (await client.append("pub/a", b"y", **reader)).status == 403
        assert (await client.ask("DELETE", "pub/a", headers=reader)).status == 403
        await client.ask("PUT", "sub", b"", {**everything})
        source = {"stream-forked-from": "/b"}
        assert (await client.ask("PUT", "pub/f", b"", {**source, **reader})).status == 403


async def test_who_is_asked_may_wait() -> None:
    async def authenticate(scope: Any) -> Rights | None:
        await trio.lowlevel.checkpoint()
        return Rights(("read",))

    async with open_client(authenticate=authenticate) as (client, _):
        assert (await client.create("a")).status == 403
        assert (await client.read("a")).status == 404


async def test_pages_of_other_origins_are_refused_unless_they_are_named() -> None:
    foreign = {"origin": "https://evil.example"}
    async with open_client() as (client, _):
        assert (await client.create("a", b"", **foreign)).status == 403
        assert (await client.read("a", **foreign)).status == 403
        assert (await client.create("a", b"x", origin="http://test")).status == 201
    named = HttpConfig(origins=("https://good.example",))
    async with open_client(config=named) as (client, _):
        answer = await client.create("a", b"x", origin="https://good.example")
        assert answer.status == 201
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert answer.headers["vary"] == "origin"
        refused = await client.read("a", **foreign)
        assert refused.status == 403
        assert "access-control-allow-origin" not in refused.headers
        asked = await client.ask("OPTIONS", "a", headers={"origin": "https://good.example"})
        assert asked.status == 204
        assert "Producer-Id" in asked.headers["access-control-allow-headers"]


async def test_methods_that_are_not_the_protocols_are_405() -> None:
    async with open_client() as (client, _):
        for method in ("PATCH", "TRACE", "FOO"):
            answer = await client.ask(method, "a")
            assert (answer.status, "GET" in answer.headers["allow"]) == (405, True)


@pytest.mark.parametrize(
    "query",
    [
        *("live=sse", "live=long-poll", "offset=", "offset=1", "offset=-2", "offset=now&offset=-1"),
        *(
            "offset=0000000000000000_0000000000000002",
            "offset=-1&live=x",
            "offset=-1&live=sse&live=sse",
        ),
        *("&".join(f"a{n}=1" for n in range(40)), "offset=-1&live=", "offset=%00"),
        "offset=0000000000000009_0000000000000000",
    ],
)
async def test_bad_parameters_are_400(query: str) -> None:
    async with open_client() as (client, _):
        await client.create("a", b"x")
        assert (await client.ask("GET", f"a?{query}")).status == 400


# ---- reading


async def test_a_read_is_bounded_and_says_where_to_go_on() -> None:
    async with open_client(config=HttpConfig(max_read_bytes=100)) as (client, _):
        await client.create("a")
        for number in range(50):
            await client.append("a", b"%09d," % number)
        first = await client.read("a")
        assert len(first.body) == 100
        assert "stream-up-to-date" not in first.headers
        assert await client.read_all("a") == b"".join(b"%09d," % n for n in range(50))
        await client.fork("f", "a", stream_fork_offset=first.next)
        await client.append("f", b"own")
        assert await client.read_all("f") == first.body + b"own"


async def test_an_offset_after_which_somebody_added_one_passes_nothing_over() -> None:
    async with open_client() as (client, _):
        await client.create("a", b"one")
        snapshot = (await client.read("a")).next
        assert snapshot is not None
        after = snapshot[:-1] + "1"
        assert (await client.read("a", after)).body == b""
        await client.append("a", b"two")
        await client.append("a", b"three")
        assert (await client.read("a", after)).body == b"twothree"


async def test_what_retention_freed_is_410_and_the_beginning_is_what_is_left(
    autojump_clock: object,
) -> None:
    async with open_client() as (client, storage):
        await client.create("a")
        for number in range(10):
            await client.append("a", b"%d" % number)
        [topic] = await storage.list_topics()
        async with storage.topic(topic) as wal:
            await wal.trim(4)
        assert (await client.read("a", ZERO)).status in (200, 410)
        left = await client.read("a")
        assert left.status == 200
        assert left.body.endswith(b"456789")
        await client.fork("f", "a")
        assert (await client.read("f")).body == left.body


SMALL = WalConfig(preallocate_bytes=0, segment_bytes=1000, retain_bytes=3000)


async def test_retention_keeps_what_forks_inherit(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk, wal=SMALL) as (client, _):
        await client.create("a", b"first,")
        await client.fork("f", "a")
        for _ in range(30):
            await client.append("a", b"x" * 500)
            await trio.sleep(20)
        assert await client.read_all("f") == b"first,"
    async with open_client(disk, wal=SMALL) as (client, storage):
        await trio.sleep(1000)
        assert await client.read_all("f") == b"first,"
        assert (await client.read_all("a")).startswith(b"first,")
        await client.delete("f")
        [topic] = [t for t in await storage.list_topics() if t.startswith("/streams/a-")]
        async with storage.topic(topic) as wal:
            await trio.sleep(1000)
            await client.append("a", b"y" * 500)
            await trio.sleep(1000)
            assert wal.start_offset == 0  # no note covers it yet


async def test_retention_forgets_no_producer(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk, wal=SMALL) as (client, storage):
        await client.create("a")
        await client.append("a", b"x", **sent("once", 4, 0))
        for seq in range(NOTE_RECORDS + 100):
            await client.append("a", b"x" * 100, **sent("often", 0, seq))
        await trio.sleep(1000)
        [topic] = await storage.list_topics()
        async with storage.topic(topic) as wal:
            await trio.sleep(1000)
            assert wal.start_offset > 500
    async with open_client(disk, wal=SMALL) as (client, _):
        assert (await client.read("a", ZERO)).status == 410
        assert (await client.append("a", b"x", **sent("once", 4, 0))).status == 204
        assert (await client.append("a", b"x", **sent("once", 3, 0))).status == 403


async def test_a_storages_streams_are_open_once() -> None:
    async with open_client() as (_, storage):
        with pytest.raises(RuntimeError, match="retain_from"):
            async with open_streams(storage):
                pass
    async with open_client() as (client, storage):
        assert (await client.create("a")).status == 201


async def test_damage_is_500_and_says_nothing_of_where() -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await client.create("a", b"x" * 600)
        await client.append("a", b"y" * 600)
        await client.append("a", b"z" * 600)
    segment = max((p for p in disk.tree() if "/streams/" in p), key=lambda p: len(disk.tree()[p]))
    disk.corrupt(segment, 900)
    async with open_client(disk) as (client, _):
        answer = await client.read("a")
        assert answer.status == 500
        assert b"/data" not in answer.body


async def test_a_lifespan_is_answered() -> None:
    async with open_client() as (client, _):
        inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        said: list[str] = []

        async def receive() -> Any:
            return inbox.pop(0)

        async def send(message: Any) -> None:
            said.append(message["type"])

        await client.app({"type": "lifespan"}, receive, send)
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
