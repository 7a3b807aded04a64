"""Tokens: who may do what, what the file may look like, and that no token is ever shown."""

from __future__ import annotations

import json
import os
import signal
import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest
from serving import PATIENCE, STREAM, TEXT, Server, head, read_until, refused, serving
from test_cli import USAGE

from danube_trio.http import Access, Token, Tokens

READER, WRITER, OPERATOR = ("r" * 32, "w" * 32, "o" * 32)
LINES = f"""\
# name      rights        token      streams

dashboard   read          {READER}
ingest      write         {WRITER}   # only brings data
operator    admin         sha256:{sha256(OPERATOR.encode()).hexdigest().upper()}
"""


def scope(*values: str) -> dict[str, Any]:
    return {"headers": [(b"accept", b"*"), *((b"Authorization", v.encode()) for v in values)]}


def bearer(token: str) -> dict[str, str]:
    return {**TEXT, "authorization": f"Bearer {token}"}


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text)
    return path


# ---- the file


def test_a_token_has_the_rights_of_its_line() -> None:
    tokens = Tokens(LINES)
    every = frozenset(("read", "write", "admin"))
    assert tokens(scope(f"Bearer {READER}")) == Token("dashboard", frozenset(["read"]), ())
    assert tokens(scope(f"bearer   {WRITER} ")) == Token("ingest", frozenset(["write"]), ())
    assert tokens(scope(f"BEARER {OPERATOR}")) == Token("operator", every, ())
    assert repr(tokens) == "<Tokens, 3>"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [READER],
        [f"Basic {READER}"],
        [f"Bearer {READER}x"],
        [f"Bearer {READER[:-1]}"],
        [f"Bearer {READER} {READER}"],
        [f"Bearer {READER}", f"Bearer {READER}"],
        [f"Bearer {sha256(READER.encode()).hexdigest()}"],
        [f"Bearer sha256:{sha256(OPERATOR.encode()).hexdigest()}"],
        ["Bearer " + "x" * 100_000],
        ["Bearer \xff\xfe"],
    ],
)
def test_what_is_no_token_of_the_file_is_nobodys(values: list[str]) -> None:
    assert Tokens(LINES)(scope(*values)) is None


def test_a_token_may_be_for_some_streams() -> None:
    tokens = Tokens(f"eu read,write {READER} /orders/eu/ notes/ü")
    token = tokens(scope(f"Bearer {READER}"))
    assert token is not None
    assert token.paths == ("orders/eu", "notes/%C3%BC")
    for path in ("orders/eu", "orders/eu/17", "notes/%C3%BC/1"):
        assert token.may("read", path)
        assert token.may("write", path)
        assert not token.may("admin", path)
    for path in ("", "orders", "orders/eux", "orders/us", "orders/eu%2F17", "__ds/subscriptions"):
        assert not token.may("read", path), path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no token in it"),
        ("# only this\n\n", "there is no token in it"),
        ("a read", "line 1: it must be NAME RIGHTS TOKEN"),
        (SECRET := "k" * 20, "line 1: it must be NAME RIGHTS TOKEN"),
        (f"\na/b read {SECRET}", "line 2: the name must be of"),
        (f"a read,delete {SECRET}", "line 1: the rights of 'a' must be of read, write and admin"),
        (f"a {SECRET} read", "line 1: the rights of 'a' must be"),
        ("a read short", "line 1: the token of 'a' is too short: it must have 16"),
        (f"a read {SECRET}é", "line 1: the token of 'a' has characters that none may have"),
        (f"a read {SECRET * 30}", "or too many"),
        (f"a read sha256:{SECRET}", "as it is, or sha256: and 64 digits"),
        (f"a read md5:{SECRET}", "as it is, or sha256: and 64 digits"),
        (f"a read {SECRET}\na write {SECRET}x", "line 2: there is a 'a' already"),
        (f"a read {SECRET}\nb write {SECRET}", "line 2: the token of 'b' is that of 'a', too"),
        (
            f"a read {SECRET}\nb write sha256:{sha256(SECRET.encode()).hexdigest()}",
            "line 2: the token of 'b' is that of 'a', too",
        ),
        (f"a read {SECRET} x/../y", "line 1: a stream of 'a' cannot be: the path has a segment"),
        ("\n".join(f"t{i} read {SECRET}{i}" for i in range(1001)), "at most 1000 may be"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_its_token_is_not(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"line|token") as caught:
        Tokens(text)
    assert said in str(caught.value)
    # Whatever prints an exception prints these, and what it was raised from.
    shown = "".join(traceback.format_exception(caught.value)).replace(text, "")
    assert SECRET not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_what_is_wrong_changes_nothing() -> None:
    tokens = Tokens(LINES)
    with pytest.raises(ValueError, match="no token"):
        tokens.read("")
    assert tokens(scope(f"Bearer {READER}")) is not None
    tokens.read(f"other read {WRITER}")
    assert tokens(scope(f"Bearer {READER}")) is None


def test_nothing_that_is_kept_has_a_token_in_it() -> None:
    tokens = Tokens(LINES)
    kept = repr(tokens.__dict__)
    assert "dashboard" in kept
    assert not any(token in kept for token in (READER, WRITER, OPERATOR))


# ---- the command


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o660])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = write(tmp_path / "tokens", LINES, mode)
    code, err = refused(tmp_path / "data", "--token-file", file)
    assert code == USAGE
    assert f"--token-file {file}: others may read or change it (mode 0{mode:o})" in err
    assert f"`chmod 600 {file}`" in err


def test_a_file_that_is_wrong_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    file = write(tmp_path / "tokens", f"a reads {READER}")
    code, err = refused(tmp_path / "data", "--token-file", file)
    assert code == USAGE
    assert f"--token-file {file}: line 1: the rights of 'a'" in err
    assert READER not in err
    file.write_bytes(b"\xff" + READER.encode())
    code, err = refused(tmp_path / "data", "--token-file", file)
    assert (code, "it is no text in UTF-8" in err, READER in err) == (USAGE, True, False)
    file.write_text("#" * (1 << 20) + "\n")
    code, err = refused(tmp_path / "data", "--token-file", file)
    assert (code, "it has more than 1048576 bytes" in err) == (USAGE, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_whose_file_it_is_says_who_else_may_read_it(tmp_path: Path) -> None:
    file = write(tmp_path / "tokens", LINES, 0o640)
    with serving(tmp_path / "data", "--token-file", file):
        pass  # root's: the group is that of the service
    os.chown(file, 12345, 12345)
    code, err = refused(tmp_path / "data", "--token-file", file)
    assert code == USAGE
    assert "it belongs to another user" in err


def statuses(server: Server, token: str | None, path: str = STREAM) -> list[int]:
    """What creating, appending, reading, asking and metrics are answered with."""
    headers = bearer(token) if token is not None else TEXT
    return [
        server.ask("PUT", path, headers=headers).status,
        server.ask("POST", path, b"x", headers).status,
        server.ask("GET", f"{path}?offset=-1", headers=headers).status,
        server.ask("HEAD", path, headers=headers).status,
        server.ask("GET", "/metrics", headers=headers).status,
        server.ask("GET", "/readyz", headers=headers).status,
    ]


@pytest.mark.happens
def test_tokens_say_who_may_do_what_and_are_nowhere_to_be_seen(tmp_path: Path) -> None:
    file = write(tmp_path / "tokens", LINES)
    log = tmp_path / "access.log"
    options = ("--token-file", file, "--access-log", log, "--metrics")
    with serving(tmp_path / "data", *options) as server:
        assert statuses(server, None) == [401] * 5 + [200]
        assert statuses(server, "n" * 32) == [401] * 5 + [200]
        assert statuses(server, WRITER) == [201, 204, 403, 403, 403, 200]
        assert statuses(server, READER) == [403, 403, 200, 200, 200, 200]
        assert statuses(server, OPERATOR) == [200, 204, 200, 200, 200, 200]
        refusal = server.ask("GET", STREAM)
        assert refusal.headers["www-authenticate"] == "Bearer"
        # In a URL a token is none, and not shown, either.
        assert server.ask("GET", f"{STREAM}?offset=-1&token={READER}").status == 401
        file.write_text(f"late read {WRITER} notes")
        server.process.send_signal(signal.SIGHUP)
        while statuses(server, READER)[2] == 200:
            pass  # until it was read
        assert statuses(server, WRITER) == [403, 403, 200, 200, 403, 200]
        assert statuses(server, WRITER, "/v1/stream/others") == [403, 403, 403, 403, 403, 200]
        file.write_text(READER)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        said = server.process.stderr.readline().decode()
        assert statuses(server, WRITER)[2] == 200
        rest = server.stop()
    assert f"--token-file {file}: line 1: it must be NAME RIGHTS TOKEN" in said
    assert "what was read before stays" in said
    shown = said + rest + log.read_text()
    assert not any(token in shown for token in (READER, WRITER, OPERATOR, "n" * 32))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["who"] for line in lines} == {None, "dashboard", "ingest", "operator", "late"}
    assert all(line["who"] is None for line in lines if line["status"] == 401)


def test_the_page_is_for_everybody_and_what_it_shows_is_not(tmp_path: Path) -> None:
    some = f"{LINES}\nlimited read {'l' * 32} notes"
    file = write(tmp_path / "tokens", some)
    with serving(tmp_path / "data", "--token-file", file) as server:
        for path in (STREAM, "/v1/stream/others"):
            assert server.ask("PUT", path, headers=bearer(OPERATOR)).status == 201
        assert server.ask("GET", "/").status == 200
        assert server.ask("GET", "/_/about").status == 401
        with server.connect() as sock:
            token = f"authorization: Bearer {'l' * 32}"
            sock.sendall(head("GET", "/_/feed/topics", token, "connection: close"))
            seen = read_until(sock, b'"/notes"')
        assert b"others" not in seen
        for token, whole in ((READER, True), ("l" * 32, False)):
            about = server.ask("GET", "/_/about", headers=bearer(token))
            assert (about.status, str(tmp_path).encode() in about.body) == (200, whole)


def test_with_tokens_it_listens_for_other_machines_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "tokens", LINES)
    with serving(tmp_path / "data", "--token-file", file, listen="0.0.0.0:0") as server:
        assert server.urls[0].startswith("http://0.0.0.0:")
        assert statuses(server, READER)[2:] == [404, 404, 404, 200]
        err = server.stop()
    assert "tokens and data go through the network as they are" in err


# ---- the access log


def test_each_request_has_a_line_with_what_is_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(tmp_path / "data", "--access-log", log) as server:
        server.create()
        server.append(b"first")
        server.ask("GET", f"{STREAM}?offset=-1&live=long-poll&secret=1&cursor={'1' * 100}")
        server.ask("GET", "/none?key=secret")
        server.ask("GET", "/v1/stream/a%2Fb%0a%1b")
        server.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    keys = [field.name for field in attrs.fields(Access)]
    assert all([*line] == keys for line in lines)
    facts = [(line["method"], line["path"], line["status"], line["bytes"]) for line in lines]
    assert facts[:3] == [
        ("PUT", STREAM, 201, 0),
        ("POST", STREAM, 204, 0),
        ("GET", STREAM, 200, 5),
    ]
    assert lines[2]["query"] == {"offset": "-1", "live": "long-poll", "cursor": "1" * 80}
    assert (lines[3]["path"], lines[3]["query"], lines[3]["status"]) == ("/none", {}, 404)
    assert (lines[4]["path"], lines[4]["status"]) == ("/v1/stream/a%2Fb%0a%1b", 400)
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert "secret" not in log.read_text()
    assert all(line["time"].endswith("Z") and line["seconds"] >= 0 for line in lines)


def test_the_access_log_goes_to_stderr_or_to_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    with serving(tmp_path / "one", "--access-log", "-") as server:
        server.ask("GET", "/healthz")
        (line,) = server.stop().splitlines()
    assert json.loads(line)["path"] == "/healthz"
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with serving(tmp_path / "two", "--access-log", log) as server:
        server.ask("GET", "/healthz")
        while not log.read_text():
            pass
        log.rename(moved)
        server.process.send_signal(signal.SIGHUP)
        while not log.exists():
            assert server.process.poll() is None
        server.ask("GET", "/readyz")
        server.stop()
    assert [json.loads(file.read_text())["path"] for file in (moved, log)] == [
        "/healthz",
        "/readyz",
    ]


@pytest.mark.happens
def test_an_access_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--access-log", "/dev/full") as server:
        for _ in range(3):
            assert server.ask("GET", "/healthz").status == 200
        assert server.stop().count("lines are lost") == 1
    assert server.process.wait(PATIENCE) == 0
