"""What errors say at the command line: options and verbs, never arguments and functions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import attrs
import pytest
import trio
from test_cli import CORRUPT, IO, LOCKED, OK, USAGE, call, fill, flip, numbered, run, segments

from danube_trio import WalConfig, errors, open_wal
from danube_trio._core.files import Trim, encode_document
from danube_trio.cli._app import app
from danube_trio.cli._words import ADVICE, OPTIONS, in_words
from danube_trio.errors import Advice

TOPIC = "/default/orders"
# A call, a class of settings, an argument with its value, a name of the library.
PROGRAMMING = re.compile(
    r"\w+\(\)|\w+\(\.\.\.|StartPosition|\w*Config\b|\b[a-z]+_[a-z_]+=|\bopen_\w+|\bawait\b|self\."
)


def programming(text: str) -> re.Match[str] | None:
    """What only a programmer can make use of; the options of a store are named as in files."""
    return PROGRAMMING.search(re.sub(r"--store-option \S+", "", text))


def test_all_advice_has_words_for_the_command_line() -> None:
    assert set(ADVICE) == set(Advice)


@pytest.mark.parametrize("phrase", ADVICE.values())
def test_what_is_said_instead_names_options_and_verbs(phrase: str) -> None:
    assert not programming(phrase.replace("on_corruption='skip'", ""))
    for verb in re.findall(r"danube-trio (\w[\w-]*)", phrase):
        assert verb in app.commands
    options = {name for command in app.commands.values() for p in command.params for name in p.opts}
    assert {*re.findall(r"--[a-z-]+", phrase)} <= options


def test_arguments_become_options() -> None:
    assert (
        in_words(errors.bad_argument("file_name", "wal", " must be")) == "--file-name 'wal' must be"
    )
    until = errors.bad_argument("until_offset", 31, " is beyond")
    assert (str(until), in_words(until)) == ("until_offset=31 is beyond", "--until 31 is beyond")
    own = errors.Argument("file_name", "'a.b'")
    other = errors.bad_argument("dir", "/x", " already holds: ", own, " is")
    assert in_words(other) == "'/x' already holds: --file-name 'a.b' is"
    assert (
        in_words(ValueError(errors.Worded(errors.Argument("url"), " is bad"))) == "--store is bad"
    )
    assert in_words(ValueError("offset=3 is text")) == "offset=3 is text"
    options = {name for command in app.commands.values() for p in command.params for name in p.opts}
    assert {option.split()[0] for option in OPTIONS.values() if option} <= options


@pytest.mark.parametrize(
    "error",
    [
        errors.LogLockedError("/log/wal.lock", "process 7 on host"),
        errors.LogLockedError("/log/wal.lock", ""),
        errors.OffsetTrimmedError(3, 9),
        errors.MessageTooLargeError(11, 10, "max_message_bytes"),
        errors.FencedError(3, "process 7 on host (epoch 4)"),
        errors.LogBrokenError("the log is broken"),
        errors.CorruptDataError("bad CRC", path="/log/wal.x.log", position=7, offset=3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_speaks_of_the_library(error: Exception) -> None:
    text = in_words(error)
    assert not programming(text)
    assert "\n" not in text


@attrs.frozen
class Case:
    """A command that fails: its arguments, exit code, and what it has to say."""

    args: str
    code: int
    says: str


CASES = [
    Case("replay {log} --from 31", USAGE, "--from 31 is beyond the end of the log, which is 30"),
    Case("replay {log} --until 31", USAGE, "--until 31 is beyond the end of the log"),
    Case("info {log} --file-name wal", USAGE, "--file-name 'wal' must look like 'wal.log'"),
    Case("append {log} --file-name o.log", USAGE, "--file-name 'o.log' does not match"),
    Case("append {log}2 --codec s9", USAGE, "s9"),
    Case("replay {trimmed} --from 1", USAGE, "--from 12, or --from earliest"),
    Case("replay {damaged}", CORRUPT, "`danube-trio replay --skip-corrupt` reads all"),
    Case("info {tmp}/none", USAGE, "is that the right path?"),
    Case("tail {tmp}", USAGE, "`danube-trio append` makes a new log"),
    Case("replay {gone}", IO, "name the store with --store and the log in it with --topic"),
    Case("restore {tmp}/n {store} --until 31", USAGE, "--until 31 is beyond what the store holds"),
    Case("restore {tmp}/n {store} --until @1", USAGE, "--until "),
    Case("restore {log} {store}", USAGE, "is not empty"),
    Case("info --store file://{tmp}/objects --topic /no/no", USAGE, "right --store, and --topic"),
    Case("info {tmp}/objects/x", USAGE, "is that the right path?"),
    Case("topics --store file://{tmp}/no", USAGE, "is that the right --store?"),
    Case("topics --store file://{tmp}/objects --prefix no", USAGE, "nothing is below --prefix no"),
    Case("topics --store file://x", USAGE, "--store 'file://x' must name an absolute path"),
    Case("info --store S3://a:b@c --prefix x", USAGE, "danube-trio: --store must begin with"),
    Case("replay --store s3://b --prefix x --store-option endpoint=http://h", USAGE,
         "say --store-option allow_http=true, or use https"),
    Case("info --store file://{tmp}/objects --topic orders", USAGE, "--topic 'orders'"),
    Case("upload {elsewhere} --store file://{tmp}/objects --topic /x/y", USAGE,
         "name it with its own --topic or --prefix"),
]  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    for name in ("log", "trimmed", "damaged", "elsewhere", "gone"):
        fill(tmp_path / name, numbered(30), segment_bytes=500)
    flip(segments(tmp_path / "damaged")[1], 30)

    async def trim() -> None:
        async with open_wal(WalConfig(dir=tmp_path / "trimmed", segment_bytes=500)) as wal:
            await wal.trim(12)

    trio.run(trim)
    url = f"file://{tmp_path}/objects"
    store = f"--store {url} --topic {TOPIC}"
    for name, topic in (("log", TOPIC), ("elsewhere", "/default/elsewhere")):
        call("upload", tmp_path / name, "--store", url, "--topic", topic)
    # As it is when uploaded segments were freed.
    first, second = segments(tmp_path / "gone")[:2]
    base = int(second.name.split(".")[1])
    (tmp_path / "gone" / "wal.trim").write_bytes(encode_document(Trim(0, local_start=base)))
    first.unlink()
    return {"tmp": str(tmp_path), "store": store} | {
        path.name: str(path) for path in tmp_path.iterdir()
    }


def test_errors_name_options_and_the_next_step(places: dict[str, str]) -> None:
    for case in CASES:
        args = case.args.format(**places).split()
        if args[0] == "append":
            done = run(*args)
            code, out, err = done.returncode, done.stdout, done.stderr.decode()
        else:
            result = call(*args)
            code, out, err = result.code, result.out, result.err
        assert (code, case.args) == (case.code, case.args)
        assert case.says in err, (case, err)
        assert not programming(err), (case, err)
        if case.code == USAGE:
            assert out == b""


async def test_a_lock_names_its_holder_and_what_works_meanwhile(tmp_path: Path) -> None:
    log, store = tmp_path / "log", f"file://{tmp_path}/s"

    async def command(*args: object) -> subprocess.CompletedProcess[bytes]:
        return await trio.to_thread.run_sync(lambda: run(*args, stdin=b"x\n"))

    async with open_wal(WalConfig(dir=log)) as wal:
        await wal.append(b"x")
        upload = ("upload", log, "--store", store, "--topic", TOPIC)
        for args in (("append", log), ("repair", log), upload):
            done = await command(*args)
            assert (done.returncode, done.stdout) == (LOCKED, b"")
            assert "is locked by process " in done.stderr.decode()
            assert "replay, tail, info and verify work" in done.stderr.decode()
        for verb in ("replay", "tail", "info", "verify", "topics"):
            done = await command(verb, tmp_path if verb == "topics" else log)
            assert done.returncode == OK
