"""The end of a server: whoever waits is answered, what was acknowledged is durable."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import httpx2
import hypercorn
import pytest
import trio
from serving import (
    PATIENCE,
    STREAM,
    TEXT,
    begin_append,
    begin_reading,
    head,
    read_head,
    read_rest,
    serving,
)

from danube_trio import StorageConfig, open_storage
from danube_trio.http import open_site

hypercorn_trio = pytest.importorskip("hypercorn.trio")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.happens
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_waits_is_answered_and_what_is_under_way_ends(root: Path, number: int) -> None:
    with serving(root, "--sse", 3600, "--long-poll", 3600) as server, ExitStack() as stack:
        server.create()
        server.append(b"first")
        poll = stack.enter_context(server.connect())
        poll.sendall(head("GET", f"{STREAM}?offset=now&live=long-poll"))
        idle = stack.enter_context(server.connect())
        reader = stack.enter_context(begin_reading(server))
        writer = stack.enter_context(begin_append(server, 6))
        writer.sendall(b"sec")
        late = stack.enter_context(begin_append(server, 1, "/v1/stream/none"))
        server.process.send_signal(number)
        # The reader's answer is whole, and then nobody listens.
        assert read_rest(reader) == b"0\r\n\r\n"
        answer = read_rest(poll)
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert b"stream-up-to-date: true" in answer
        assert read_rest(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert server.process.poll() is None
        writer.sendall(b"ond")
        assert read_rest(writer).startswith(b"HTTP/1.1 204 ")
        late.sendall(b"x")
        assert read_rest(late).startswith(b"HTTP/1.1 404 ")
        assert server.ended(0) == ""
    with serving(root) as server:
        assert server.read() == b"firstsecond"


def test_over_http_2_too(root: Path) -> None:
    with (
        serving(root, "--sse", 3600) as server,
        httpx2.Client(http1=False, http2=True, base_url=server.urls[0], timeout=PATIENCE) as client,
    ):
        server.create()
        with client.stream("GET", STREAM, params={"offset": "-1", "live": "sse"}) as answer:
            pieces = answer.iter_bytes()
            assert b"upToDate" in next(pieces)
            server.process.terminate()
            assert b"".join(pieces) == b""  # the answer is whole
        assert server.ended(0) == ""


def test_what_is_sent_after_an_answer_is_not_heard_any_more(root: Path) -> None:
    """A request that comes behind another one, when the server ends, is not answered."""
    with serving(root) as server:
        server.create()
        with begin_append(server, 1) as writer, begin_reading(server) as reader:
            server.process.terminate()
            read_rest(reader)
            writer.sendall(b"x" + head("GET", "/readyz"))
            answers = read_rest(writer)
            assert answers.count(b"HTTP/1.1 ") == 1
            assert answers.startswith(b"HTTP/1.1 204 ")
        assert server.ended(0) == ""


def test_while_it_ends_nobody_waits_and_it_is_not_ready(root: Path) -> None:
    """In HTTP/2 a connection that has a request open could have more."""

    async def main() -> None:
        config = StorageConfig(dir=str(root))
        async with open_storage(config) as storage, open_site(storage) as site:
            transport = httpx2.ASGITransport(app=site)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                assert (await client.get("/readyz")).text == "ready\n"
                await client.put(STREAM, headers=TEXT)
                for _ in range(2):
                    site.stop()
                answer = await client.get("/readyz")
                assert (answer.status_code, answer.text) == (503, "stopping\n")
                assert (await client.get("/healthz")).status_code == 200
                assert (await client.post(STREAM, content=b"x", headers=TEXT)).status_code == 204
                assert (await client.get(STREAM, params={"offset": "-1"})).text == "x"
                for live in ("sse", "long-poll"):
                    query = {"offset": "now", "live": live}
                    assert (await client.get(STREAM, params=query)).status_code == 503

    trio.run(main)


def test_what_does_not_end_in_time_is_cut(root: Path) -> None:
    with serving(root, "--grace", 0.2) as server:
        server.create()
        with begin_append(server, 2) as writer:
            writer.sendall(b"x")
            assert server.stop().startswith("danube-trio: 1 connection cut: ")
            assert read_rest(writer) == b""
    with serving(root) as server:
        assert server.read() == b""


def test_a_second_signal_waits_for_nothing(root: Path) -> None:
    with serving(root, "--grace", 3600) as server:
        server.create()
        with begin_append(server, 2) as writer, begin_reading(server) as reader:
            server.process.terminate()
            read_rest(reader)
            assert server.process.poll() is None
            assert "cut: what was under way" in server.stop(signal.SIGINT)
            assert read_rest(writer) == b""


def test_a_reader_that_takes_nothing_is_not_waited_for_longer_than_others(root: Path) -> None:
    """What is sent to it is on its way for ever; the end does not wait for that."""
    with serving(root, "--grace", 0.2, "--max-body", 60 << 20) as server:
        server.create()
        server.append(b"x" * (20 << 20))
        with server.connect() as reader:
            reader.sendall(head("GET", f"{STREAM}?offset=-1&live=sse"))
            read_head(reader)
            assert "1 connection cut" in server.stop()


@pytest.mark.happens
def test_an_append_that_was_cut_is_whole_or_not_there(root: Path) -> None:
    with serving(root, "--grace", 0.01) as server, ExitStack() as stack:
        server.create()
        writers = [stack.enter_context(begin_append(server, 3)) for _ in range(10)]
        for number, writer in enumerate(writers):
            writer.sendall(b"<%d>" % number)
        server.process.terminate()
        answers = [read_rest(writer) for writer in writers]
        server.ended(0)
    answered = [b"<%d>" % i for i, answer in enumerate(answers) if b" 204 " in answer]
    with serving(root) as server:
        found = server.read()
        assert all(body in found for body in answered)
        assert len(found) % 3 == 0


def test_under_hypercorn_alone_the_end_of_an_answer_closes_its_connection(root: Path) -> None:
    """hypercorn says that the client has gone while it sends the end of an answer."""
    config = hypercorn.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 3600

    async def main() -> None:
        stop = trio.Event()
        async with (
            open_storage(StorageConfig(dir=str(root))) as storage,
            open_site(storage) as site,
            trio.open_nursery() as nursery,
        ):

            async def serve(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await hypercorn_trio.serve(
                    site, config, shutdown_trigger=stop.wait, task_status=task_status
                )

            (url,) = await nursery.start(serve)
            stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            async with stream:
                await stream.send_all(head("PUT", STREAM, "content-type: text/plain"))
                await stream.receive_some()
                await stream.send_all(head("GET", f"{STREAM}?offset=now&live=sse"))
                data = bytearray()
                while b"upToDate" not in data:
                    data += await stream.receive_some()
                stop.set()
                site.stop()
                async for piece in stream:
                    data += piece
                assert data.endswith(b"0\r\n\r\n")

    trio.run(main)
