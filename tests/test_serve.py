"""`danube-trio serve`, as a process of its own: what it serves, and when it refuses to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path
from subprocess import PIPE, Popen

import attrs
import httpx2
import pytest
from serving import (
    PATIENCE,
    STREAM,
    TEXT,
    head,
    make_certificate,
    read_rest,
    read_until,
    refused,
    serving,
)
from test_cli import COMMAND, ENVIRONMENT, IO, LOCKED, OK, USAGE, call, fill, numbered, run_program

from danube_trio.cli._serve_options import serve_options
from danube_trio.http import HttpConfig

CURL = shutil.which("curl") or ""
CURL_VERSIONS = ("--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


# ---- what it serves


def test_what_was_acknowledged_is_there_after_a_restart(root: Path) -> None:
    for turn in range(2):
        with serving(root) as server:
            assert server.ready.keys() == {"directory", "urls", "pid"}
            assert server.ready["pid"] == server.process.pid
            if not turn:
                server.create()
            assert server.append(b"%d" % turn).status == 204
            assert server.stop() == ""
    with serving(root) as server:
        assert server.read() == b"01"


def test_it_says_where_it_is_in_one_line(root: Path) -> None:
    command = [*COMMAND, "serve", str(root), "--listen", "127.0.0.1:0", "--listen", "[::1]:0"]
    with Popen(command, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == OK
    place, _, urls = line.partition(" at ")
    assert place == f"serving {root}"
    four, six = urls.split(" and ")
    assert four.startswith("http://127.0.0.1:")
    assert six.startswith("http://[::1]:")


def test_it_says_how_it_is_and_what_is_not_there(root: Path) -> None:
    with serving(root, "--no-page") as server:
        assert server.ask("GET", "/healthz").body == b"ok\n"
        assert server.ask("GET", "/readyz").body == b"ready\n"
        assert server.ask("HEAD", "/readyz").body == b""
        assert server.ask("POST", "/healthz").status == 405
        for path in ("/", "/metrics", "/v1/streams", "/v1/stream/../x"):
            assert server.ask("GET", path).status in (400, 404), path


def test_the_page_is_there_unless_it_is_switched_off(root: Path) -> None:
    with serving(root) as server:
        server.create()
        page = server.ask("GET", "/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        about = json.loads(server.ask("GET", "/_/about").body)
        assert (about["streams"], about["token"]) == (True, False)
        server.create("/v1/stream/wakes")
        wanted = json.dumps({"type": "pull-wake", "streams": ["notes"], "wake_stream": "wakes"})
        json_body = {"content-type": "application/json"}
        made = server.ask("PUT", "/v1/stream/__ds/subscriptions/s1", wanted.encode(), json_body)
        assert made.status == 201, made
        assert b'"s1"' in server.ask("GET", "/_/subscriptions").body
        assert server.ask("GET", "/none").status == 404
        with server.connect() as sock:
            sock.sendall(head("GET", "/_/feed/topics"))
            assert b'"/notes"' in read_until(sock, b'"/notes"')
            assert server.stop() == ""  # it does not wait for who looks
            assert read_rest(sock).endswith(b"0\r\n\r\n")
    with serving(root, "--no-page") as server:
        assert server.ask("GET", "/").status == 404
        assert server.ask("GET", "/_/about").status == 404


def test_http_2_is_spoken_by_prior_knowledge(root: Path) -> None:
    with (
        serving(root) as server,
        httpx2.Client(http1=False, http2=True, base_url=server.urls[0]) as client,
    ):
        assert client.put(STREAM, headers=TEXT).status_code == 201
        assert client.post(STREAM, content=b"first", headers=TEXT).status_code == 204
        answer = client.get(STREAM, params={"offset": "-1"})
        assert (answer.http_version, answer.content) == ("HTTP/2", b"first")


@pytest.mark.skipif(not CURL, reason="curl is not installed")
@pytest.mark.parametrize("version", CURL_VERSIONS)
def test_curl_reads_and_writes(root: Path, version: str) -> None:
    with serving(root) as server:

        def curl(*args: str) -> str:
            command = [CURL, "-sS", "--fail-with-body", version, *args]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return done.stdout

        url = server.urls[0] + STREAM
        curl("-X", "PUT", url, "-H", "Content-Type: text/plain")
        curl(url, "-d", "first", "-H", "Content-Type: text/plain")
        assert curl(f"{url}?offset=-1") == "first"
        curl(url, "-d", "", "-H", "Stream-Closed: true")
        assert "data:first" in curl(f"{url}?offset=-1&live=sse")


def test_top_and_tail_work_beside_it(root: Path) -> None:
    with serving(root) as server:
        server.create()
        server.append(b"first")
        (directory,) = server.topics()
        with Popen(
            [*COMMAND, "tail", "-f", str(directory), "--json"],
            stdout=PIPE, stderr=PIPE, env=ENVIRONMENT,
        ) as tail:  # fmt: skip
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["payload"] == "first"
            server.append(b"second")
            assert json.loads(tail.stdout.readline())["payload"] == "second"
            tail.send_signal(signal.SIGINT)
            tail.wait(PATIENCE)
        page = call("top", root, "--once", "--json")
        assert (page.code, page.json["kind"], page.json["pid"]) == (
            OK,
            "storage",
            server.process.pid,
        )
        assert call("verify", directory).code == OK
        assert call("topics", root).out.count(b"/streams/notes-") == 1


def test_logs_go_to_a_store(root: Path, tmp_path: Path) -> None:
    store = ("--store", f"file://{tmp_path}/objects")
    with serving(root, *store) as server:
        server.create()
        server.append(b"first")
        (directory,) = server.topics()
        topic = f"/streams/{directory.name}"
        (listed,) = call("topics", *store, "--json").objects
        assert (listed["topic"], listed["store"]["epoch"]) == (topic, 1)
        server.stop()
    assert call("upload", directory, *store, "--topic", topic).code == OK
    assert call("replay", *store, "--topic", topic).lines == [b"first"]


def test_metrics_are_shown_when_asked_for(root: Path) -> None:
    with serving(root, "--metrics") as server:
        server.create()
        server.append(b"first")
        answer = server.ask("GET", "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert b'danube_trio_up{kind="storage",name="storage"} 1.0' in answer.body
        assert b"process_open_fds" in answer.body
        assert server.ask("HEAD", "/metrics").body == b""


def test_a_socket_in_the_file_system_is_for_a_proxy(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    for _ in range(2):
        with serving(root, listen=f"unix:{path}") as server:
            assert server.urls == [f"unix:{path}"]
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o660
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
                assert client.get("http://any.example/healthz").text == "ok\n"
            server.process.kill()  # the name stays, and nobody is there
        assert path.exists()
    with serving(root, listen=f"unix:{path}") as server:
        code, err = refused(tmp_path / "other", "--listen", f"unix:{path}")
        assert code == IO
        assert str(path) in err
        server.stop()
    assert not path.exists()


# ---- whose names and pages


def test_on_loopback_only_names_of_this_machine_are_answered_to(root: Path) -> None:
    """A page of evil.example may make that name lead here; its Host header stays."""
    with serving(root, "--host", "log.example") as server:
        port = server.port
        for host in ("localhost", "127.0.0.1", f"127.0.0.1:{port}", "[::1]:1", "LOG.example:443"):
            assert server.ask("GET", "/healthz", headers={"host": host}).status == 200, host
        for host in ("evil.example", "localhost.evil.example", f"evil.example:{port}", "127.0.0.2"):
            answer = server.ask("GET", STREAM, headers={"host": host})
            assert answer.status == 421, host
            assert b"--host" in answer.body
        assert server.ask("GET", "/healthz", headers={"host": ""}).status == 200


def test_pages_of_other_origins_may_do_what_they_were_given(root: Path) -> None:
    page = {"origin": "https://app.example"}
    with serving(root) as server:
        assert server.ask("PUT", STREAM, headers={**TEXT, **page}).status == 403
    with serving(root, "--origin", "https://app.example") as server:
        answer = server.ask("PUT", STREAM, headers={**TEXT, **page})
        assert answer.status == 201
        assert answer.headers["access-control-allow-origin"] == page["origin"]


# ---- what it refuses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "4437"], "must be HOST:PORT"),
        (["--listen", ":4437"], "must be HOST:PORT"),
        (["--listen", "::1:4437"], "must be HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], "must be HOST:PORT"),
        (["--listen", "unix:"], "must be HOST:PORT"),
        (["--listen", "name.invalid:0"], "--listen name.invalid:0: "),
        (["--listen", "192.0.2.1:0"], "this machine does not have that address"),
        (["--listen", "0.0.0.0:0"], "give --token-file FILE"),
        (["--listen", "127.0.0.1:0", "--listen", "[::]:0"], "give --token-file FILE"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key need each other"),
        (["--tls-key", "key.pem"], "--tls-cert and --tls-key need each other"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], "none.pem: No such file"),
        (["--token-file", "none"], "none: No such file"),
        (["--access-log", "none/log"], "none/log: No such file"),
        (["--origin", "app.example"], "'app.example' must be an origin"),
        (["--metadata", "etcd://127.0.0.1:1"], "missing: --store"),
        (["--max-connections", "0"], "'--max-connections'"),
    ],
)
def test_wrong_usage_is_said_and_nothing_is_made(root: Path, options: list[str], said: str) -> None:
    code, err = refused(root, *options)
    assert said in err
    assert code in (USAGE, IO)
    assert (code == IO) == ("192.0.2.1:0" in options)
    assert err.rstrip().count("\n") <= 3  # click shows the usage
    assert not root.exists()


def test_the_directory_of_one_log_is_not_that_of_many(root: Path) -> None:
    fill(root, numbered(1))
    before = sorted(os.listdir(root))
    code, err = refused(root)
    assert code == USAGE
    assert f"{root} is the directory of one log" in err
    assert f"`danube-trio tail -f {root}`" in err
    assert sorted(os.listdir(root)) == before
    (root / "file").write_text("")
    assert refused(root / "file")[0] == USAGE


@pytest.mark.happens
def test_one_server_has_a_directory(root: Path) -> None:
    with serving(root) as server:
        code, err = refused(root, "--listen", "127.0.0.1:0")
        assert code == LOCKED
        assert f"process {server.process.pid}" in err


def test_a_port_that_is_taken_is_named(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, err = refused(root, "--listen", place)
    assert code == IO
    assert err == (
        f"danube-trio: --listen {place}: Address already in use: another program listens there: "
        f"stop it, or choose another port\n"
    )
    assert not root.exists()


def test_what_is_no_certificate_is_refused(root: Path, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = make_certificate(tmp_path / "other")
    for first, second in ((cert, other), (key, cert), (cert, cert)):
        code, err = refused(root, "--tls-cert", first, "--tls-key", second)
        assert code == USAGE
        assert "they must be a certificate and its key" in err


@pytest.mark.parametrize("package", ["hypercorn", "prometheus_client"])
def test_a_missing_package_is_named(root: Path, package: str) -> None:
    program = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        f"sys.argv[1:] = ['serve', {str(root)!r}, '--listen', '127.0.0.1:0', '--metrics']\n"
        "from danube_trio.cli import main\nmain()"
    )
    done = run_program(program)
    assert done.returncode == USAGE
    extra = "serve" if package == "hypercorn" else "prometheus"
    assert f"needs {package}: pip install 'danube-trio[{extra}]'" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


# ---- settings


def test_the_options_have_the_defaults_of_the_settings() -> None:
    @serve_options
    def command(**_: object) -> None:
        pass

    options = {each.name: each.default for each in command.__click_params__}  # type: ignore[attr-defined]  # click's own
    defaults = {field.name: field.default for field in attrs.fields(HttpConfig)}
    shared = options.keys() & defaults.keys()
    assert shared >= {"max_body_bytes", "body_seconds", "sse_seconds", "long_poll_seconds", "cache"}
    # Half of the connections, so that there is room for who brings data.
    assert options.pop("max_waiting") * 2 == options["max_connections"]
    lists = {"origins", "webhooks"}  # whose default click does not show
    assert {name: options[name] for name in shared - {"max_waiting"} - lists} == {
        name: defaults[name] for name in shared - {"max_waiting"} - lists
    }


def test_a_body_as_large_as_allowed_is_taken(root: Path) -> None:
    size = 20 << 20
    with serving(root, "--max-body", size) as server:
        server.create()
        assert server.append(b"x" * size).status == 204
        assert server.append(b"x" * (size + 1)).status == 413


def test_nobody_reads_what_it_says(root: Path) -> None:
    """Whoever started it closed the pipe: it serves all the same."""
    path = root.with_suffix(".sock")
    read, write = os.pipe()
    os.close(read)
    with Popen(
        [*COMMAND, "serve", str(root), "--listen", f"unix:{path}"],
        stdout=write, stderr=PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        os.close(write)
        while not path.exists():
            assert process.poll() is None
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/readyz").status_code == 200
        process.terminate()
        assert process.communicate(timeout=PATIENCE)[1] == b""
    assert process.returncode == OK


def test_a_full_stdout_is_an_error(root: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "serve", str(root), "--listen", "127.0.0.1:0"],
            stdout=full, stderr=PIPE, env=ENVIRONMENT, check=False, timeout=PATIENCE,
        )  # fmt: skip
    assert done.returncode == IO
    assert done.stderr.startswith(b"danube-trio: stdout: No space left on device")
