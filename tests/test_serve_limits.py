"""What a client may cost: too much and too slow is answered or cut, and nobody else notices."""

from __future__ import annotations

import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from serving import (
    PATIENCE,
    STREAM,
    TEXT,
    Server,
    begin_append,
    begin_reading,
    head,
    read_head,
    read_rest,
    read_until,
    serving,
    wait_cut,
)
from test_cli import COMMAND, ENVIRONMENT

# Shorter than anybody would choose: the tests wait for it.
SHORT = 0.2
LONG = 3600
READERS = 1000
# Measured: 35 KiB.
READER_BYTES = 100 << 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in which nothing ends by itself, with a stream."""
    options = ("--header-timeout", LONG, "--idle-timeout", LONG, "--body-timeout", LONG)
    with serving(tmp_path_factory.mktemp("patient") / "data", *options) as server:
        server.create()
        yield server
        assert server.stop() == ""


@pytest.fixture
def server(patient: Server) -> Iterator[Server]:
    """The same, which goes on whatever the test does to it, and says nothing."""
    yield patient
    assert patient.append(b"alive").status == 204


# ---- heads


def test_a_head_that_is_too_large_is_refused(root: Path) -> None:
    with serving(root, "--max-header", 2000) as server:
        server.create()
        for line in ("x: " + "y" * 2000, *["x: " + "y" * 200_000]):
            with server.connect() as sock:
                sock.sendall(head("GET", STREAM, line))
                assert read_head(sock).startswith(b"HTTP/1.1 431 ")
                read_rest(sock)
        with server.connect() as sock:
            sock.sendall(b"GET /" + b"x" * 3000)
            assert read_head(sock).startswith(b"HTTP/1.1 431 ")
        assert server.ask("GET", STREAM, headers={"x": "y" * 1500}).status == 200


def test_a_path_that_is_too_long_is_refused(server: Server) -> None:
    assert server.ask("GET", f"/v1/stream/{'x' * 2000}").status == 414


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/3.7\r\nhost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"G@T / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
)
def test_what_is_no_request_is_answered_with_an_error_or_not_at_all(
    server: Server, data: bytes
) -> None:
    with server.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = read_rest(sock)
    assert not answer or answer[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5") or b"\0" in answer


@pytest.mark.happens
def test_a_slow_head_is_not_waited_for(root: Path) -> None:
    with serving(root, "--header-timeout", SHORT, "--access-log", "-") as server:
        server.create()
        assert server.process.stderr is not None
        server.process.stderr.readline()
        with server.connect() as silent, server.connect() as slow, server.connect() as late:
            slow.sendall(head("GET", STREAM)[:-2])
            late.sendall(head("GET", "/healthz"))
            read_head(late)
            assert late.recv(10) == b"ok\n"
            server.process.stderr.readline()  # the answer has ended
            late.sendall(b"GET")  # the next one begins
            for sock in (silent, slow, late):
                assert b" 200 " not in read_rest(sock)
        with server.connect() as two:
            two.sendall(h2_client().data_to_send())
            read_rest(two)
        with begin_reading(server):  # while a request is open, there is no hurry
            assert server.append(b"alive").status == 204


def test_an_idle_connection_is_closed(root: Path) -> None:
    with serving(root, "--idle-timeout", SHORT) as server, server.connect() as sock:
        for _ in range(3):
            sock.sendall(head("GET", "/healthz"))
            read_head(sock)
            assert sock.recv(10) == b"ok\n"
        assert sock.recv(10) == b""


# ---- bodies


@pytest.mark.parametrize("size", [1001, 100_000, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_and_the_refusal_is_read(
    root: Path, size: int, chunked: bool
) -> None:
    """Also by a client that sends all of it first."""
    with serving(root, "--max-body", 1000) as server:
        server.create()
        body = [b"x" * 1000] * (size // 1000) + [b"x" * (size % 1000)]
        whole = filter(None, body) if chunked else b"".join(body)
        answer = server.ask("POST", STREAM, whole, TEXT)
        assert answer.status == 413
        assert server.read() == b""


def test_a_body_without_end_is_cut(root: Path) -> None:
    with serving(root, "--max-body", 1000) as server, server.connect() as sock:
        server.create()
        sock.sendall(head("POST", STREAM, f"content-length: {10**15}") + b"x" * 5000)
        assert read_head(sock).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            while True:
                sock.sendall(b"x" * 100_000)
        assert server.append(b"alive").status == 204


def test_a_slow_body_is_not_waited_for(root: Path) -> None:
    with serving(root, "--body-timeout", SHORT) as server:
        server.create()
        with begin_append(server, 10) as sock:
            sock.sendall(b"x")
            assert read_head(sock).startswith(b"HTTP/1.1 408 ")
        assert server.read() == b""


def test_a_client_that_goes_away_in_a_body_leaves_nothing(server: Server) -> None:
    before = server.read()
    for _ in range(20):
        begin_append(server, 10).close()
    assert server.read() == before


# ---- many


@pytest.mark.happens
def test_one_connection_too_many_waits_for_one_that_is_idle(root: Path) -> None:
    with serving(root, "--max-connections", 3, "--idle-timeout", LONG) as server:
        server.create()
        with ExitStack() as stack:
            idle = stack.enter_context(server.connect())
            idle.sendall(head("GET", "/healthz"))
            read_head(idle)
            assert idle.recv(10) == b"ok\n"
            readers = [stack.enter_context(begin_reading(server)) for _ in range(2)]
            late = stack.enter_context(server.connect())
            late.sendall(head("GET", "/healthz"))
            assert idle.recv(10) == b""  # the one that had nothing to do made room
            assert read_head(late).startswith(b"HTTP/1.1 200 ")
            assert late.recv(10) == b"ok\n"
            # Now the last one waits for any: one goes away, or has nothing to do.
            last = stack.enter_context(server.connect())
            last.sendall(head("GET", "/healthz"))
            assert late.recv(10) == b""
            assert read_head(last).startswith(b"HTTP/1.1 200 ")
            more = stack.enter_context(server.connect())
            more.sendall(head("GET", "/healthz"))
            readers[0].close()
            assert read_head(more).startswith(b"HTTP/1.1 200 ")


def test_one_reader_too_many_is_told_to_come_later(root: Path) -> None:
    with serving(root, "--max-waiting", 2) as server:
        server.create()
        with begin_reading(server), begin_reading(server):
            for live in ("sse", "long-poll"):
                answer = server.ask("GET", f"{STREAM}?offset=now&live={live}")
                assert answer.status == 429
                assert answer.headers["retry-after"].isdigit()
        # Those that went away are noticed.
        server.append(b"x")
        while server.ask("GET", f"{STREAM}?offset=-1&live=long-poll").status == 429:
            pass


def test_one_stream_too_many_is_refused(root: Path) -> None:
    with serving(root, "--max-streams", 2) as server:
        statuses = [server.ask("PUT", f"/v1/stream/{n}", headers=TEXT).status for n in range(3)]
    assert statuses == [201, 201, 429]


def test_live_answers_end_after_their_time(root: Path) -> None:
    with serving(root, "--sse", SHORT, "--long-poll", SHORT) as server:
        server.create()
        assert server.ask("GET", f"{STREAM}?offset=now&live=long-poll").status == 204
        answer = server.ask("GET", f"{STREAM}?offset=now&live=sse")
        assert answer.status == 200
        assert b"streamNextOffset" in answer.body


@pytest.mark.happens
def test_a_reader_that_takes_nothing_is_cut(root: Path) -> None:
    options = ("--send-timeout", SHORT, "--max-body", 30 << 20)
    with serving(root, *options) as server:
        server.create()
        server.append(b"x" * (30 << 20))
        with server.connect() as sock:
            sock.sendall(head("GET", f"{STREAM}?offset=-1"))
            wait_cut(sock)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_thousand_readers_that_wait_cost_little_memory_each(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = READERS + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may not have {wanted} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with serving(root, "--sse", LONG) as server, ExitStack() as stack:
        server.create()
        before = resident_bytes(server.process.pid)
        readers = [stack.enter_context(begin_reading(server)) for _ in range(READERS)]
        assert server.append(b"for all").status == 204
        for reader in readers:
            read_until(reader, b"data:for all")
        assert resident_bytes(server.process.pid) - before < READERS * READER_BYTES
        server.process.terminate()
        for reader in readers:
            assert read_rest(reader).endswith(b"0\r\n\r\n")
        assert server.ended(0) == ""


# ---- HTTP/2


def h2_client(**settings: int) -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(
        header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config=config)
    connection.initiate_connection()
    if settings:
        codes: dict[h2.settings.SettingCodes | int, int] = {
            h2.settings.SettingCodes[name]: value for name, value in settings.items()
        }
        connection.update_settings(codes)
    return connection


class Two:
    """A connection in HTTP/2 that says what it wants."""

    def __init__(self, server: Server, **settings: int) -> None:
        self.sock = server.connect()
        self.h2 = h2_client(**settings)
        self.events: list[h2.events.Event] = []
        self.send()

    def __enter__(self) -> Two:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def request(
        self, stream: int, method: str, path: str, *more: tuple[str, str], end: bool
    ) -> None:
        names = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "localhost"),
        ]
        self.h2.send_headers(stream, [*names, *more], end_stream=end)
        self.send()

    def until(self, kind: type[h2.events.Event]) -> h2.events.Event | None:
        """The next event of this kind; None at the end of the connection."""
        while True:
            for number, event in enumerate(self.events):
                if isinstance(event, kind):
                    del self.events[: number + 1]
                    return event
            data = b""
            with suppress(ConnectionResetError):
                data = self.sock.recv(1 << 16)
            if not data:
                return None
            self.events += self.h2.receive_data(data)
            self.send()

    def status(self) -> str:
        event = self.until(h2.events.ResponseReceived)
        assert isinstance(event, h2.events.ResponseReceived)
        return next(str(value) for name, value in event.headers if str(name) == ":status")


def test_in_http_2_an_answer_may_come_before_the_end_of_a_body(root: Path) -> None:
    """And the connection, and what else is in it, goes on."""
    with serving(root, "--max-body", 1000) as server:
        server.create()
        with Two(server) as two:
            two.request(1, "POST", STREAM, ("content-type", "text/plain"), end=False)
            two.h2.send_data(1, b"x" * 5000)
            two.send()
            assert two.status() == "413"
            two.h2.send_data(1, b"x" * 2000)
            two.h2.send_data(1, b"x" * 2000, end_stream=True)
            two.send()
            two.request(3, "POST", STREAM, ("content-type", "text/plain"), end=False)
            two.h2.send_data(3, b"y", end_stream=True)
            two.send()
            assert two.status() == "204"
        assert server.read() == b"y"


def bad_path(two: Two) -> None:
    two.request(1, "GET", "/\xff", end=True)


def no_path(two: Two) -> None:
    two.h2.send_headers(1, [(":method", "CONNECT"), (":authority", "localhost")])


def large_head(two: Two) -> None:
    two.request(1, "GET", "/", ("x", "y" * 20_000), end=True)


def bad_method(two: Two) -> None:
    two.request(1, "P\xd6ST", "/", end=True)


def no_frames(two: Two) -> None:
    two.sock.sendall(b"\xff" * 1000)


def goodbye(two: Two) -> None:
    two.h2.close_connection()


@pytest.mark.happens
@pytest.mark.parametrize("spoil", [bad_path, no_path, large_head, bad_method, no_frames, goodbye])
def test_in_http_2_what_is_no_request_ends_the_connection_at_most(
    server: Server, spoil: Callable[[Two], None]
) -> None:
    with Two(server) as two, suppress(BrokenPipeError, ConnectionResetError):
        spoil(two)
        two.send()
        two.sock.shutdown(socket.SHUT_WR)
        read_rest(two.sock)


def test_in_http_2_requests_that_are_taken_back_do_not_add_up(server: Server) -> None:
    with Two(server) as two:
        with suppress(BrokenPipeError, ConnectionResetError):  # it was enough
            for stream in range(1, 4001, 2):
                two.request(stream, "GET", f"{STREAM}?offset=now&live=sse", end=True)
                two.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                two.send()
        assert server.ask("GET", "/readyz").status == 200


def test_in_http_2_a_reader_without_a_window_is_cut(root: Path) -> None:
    with serving(root, "--send-timeout", SHORT) as server:
        server.create()
        server.append(b"x" * 1_000_000)
        with Two(server, INITIAL_WINDOW_SIZE=0) as two:
            two.request(1, "GET", f"{STREAM}?offset=-1", end=True)
            assert two.status() == "200"
            assert two.until(h2.events.DataReceived) is None


def test_in_http_2_a_client_that_went_away_is_forgotten(root: Path) -> None:
    """Its answer waited for a window; nothing is left that would wait for ever."""
    with serving(root, "--send-timeout", LONG, "--max-connections", 1) as server:
        server.create()
        server.append(b"x" * 1_000_000)
        with Two(server, INITIAL_WINDOW_SIZE=0) as two:
            two.request(1, "GET", f"{STREAM}?offset=-1", end=True)
            assert two.status() == "200"
        assert server.ask("GET", "/readyz").status == 200
        assert server.stop() == ""


# ---- the system


def test_it_takes_as_many_open_files_as_it_may(root: Path) -> None:
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 500))

    with subprocess.Popen(
        [*COMMAND, "serve", str(root), "--listen", "127.0.0.1:0", "--max-open", "16"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, preexec_fn=limits,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline()
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert (soft, hard) == (500, 500)
    assert b"this process may have 500: lower --max-connections" in err
