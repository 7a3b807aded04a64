"""The command line and object stores: a directory as a store, and a server."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from etcd_server import EtcdServer
from servers import Server
from test_cli import (
    COMMAND,
    CORRUPT,
    ENVIRONMENT,
    IO,
    LOCKED,
    OK,
    PROBLEMS,
    ROOT,
    USAGE,
    Result,
    call,
    fill,
    flip,
    numbered,
    run_program,
    segments,
)

from danube_trio import WalConfig, open_wal
from danube_trio._disk.real import RealDisk
from danube_trio.catalog import Backoff, ManifestCatalog
from danube_trio.cloud import DirectoryStore

pytest_plugins = ["cloud_places"]

TOPIC = "/default/orders"


@attrs.frozen
class Stored:
    """A log in a directory and in a store."""

    log: Path
    options: tuple[str, ...]

    def call(self, verb: str, *args: object) -> Result:
        return call(verb, *args, *self.options)

    def upload(self, *args: object) -> Result:
        return self.call("upload", self.log, *args)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "log", ("--store", f"file://{tmp_path}/objects", "--topic", TOPIC))


@pytest.fixture
def in_s3(tmp_path: Path, s3: Server) -> Stored:
    file = tmp_path / "store.json"
    options = {k: v for k, v in s3.options.to_plain().items() if k != "region"}
    file.write_text(json.dumps(options))
    url = f"{s3.url}/{secrets.token_hex(6)}"
    more = ("--store-option", f"region={s3.options.region}", "--store-option", "max_retries=1")
    return Stored(
        tmp_path / "log", ("--store", url, "--topic", TOPIC, "--store-options", str(file), *more)
    )


def objects(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "objects" / "storage/topics/default/orders/segments").iterdir())


def manifests(tmp_path: Path) -> list[str]:
    folder = tmp_path / "objects" / "storage/topics/default/orders/manifest"
    return sorted(path.name for path in folder.iterdir())


# ---- one round


def check_one_round(stored: Stored, tmp_path: Path) -> None:
    """Append, upload, look at it in every way, restore to a point, and go on."""
    fill(stored.log, numbered(30), segment_bytes=500)
    count = len(segments(stored.log))
    dry = stored.upload("--dry-run", "--json").json
    assert (dry["uploaded"], dry["records"], dry["segments"]) == (False, 30, count)
    nothing = call("topics", *stored.options[:2], *stored.options[4:])
    if stored.options[1].startswith("file:"):  # what is not there is no empty store
        assert (nothing.code, nothing.out) == (USAGE, b"")
        (tmp_path / "objects").mkdir()
        nothing = call("topics", *stored.options[:2])
    assert nothing.code == OK
    assert nothing.out.decode() == f"no topics in {stored.options[1]}, below storage/topics\n"
    done = stored.upload("--json").json
    assert (done["uploaded"], done["start_offset"], done["end_offset"]) == (True, 0, 30)
    assert (done["segments"], done["size_bytes"]) == (count, dry["size_bytes"])
    assert len(segments(stored.log)) == count + 1  # they stay

    (topic,) = call("topics", "--json", *stored.options[:2], *stored.options[4:]).objects
    assert topic["topic"] == TOPIC
    assert topic["local"] is None
    assert (topic["store"]["start_offset"], topic["store"]["end_offset"]) == (0, 30)
    assert topic["store"]["objects"] == count

    assert stored.call("replay").lines == numbered(30)
    assert stored.call("tail", "-n", 2).lines == numbered(30)[-2:]
    lines = stored.call("replay", "--json").objects
    assert [line["offset"] for line in lines] == list(range(30))
    facts = stored.call("info", stored.log, "--json").json
    assert facts["store"]["owned_by_directory"]
    assert facts["store"]["size_bytes"] == dry["size_bytes"]
    assert stored.call("info", "--json").json["store"]["records"] == 30
    assert stored.call("info").code == OK
    result = stored.call("verify")
    assert (result.code, result.err) == (OK, "")
    assert result.out.startswith(b"clean: 30 records, offsets 0 to 30 (exclusive), ")
    both = stored.call("verify", stored.log, "--json").objects[-1]["summary"]
    assert (both["records"], both["store"]["records"], both["problems"]) == (30, 30, 0)

    until = lines[15]["append_time"]
    expected = next(line["offset"] for line in lines if line["append_time"] >= until)
    for name, point, end in (("all", (), 30), ("offset", ("--until", 20), 18),
                             ("time", ("--until", f"@{until}"), expected)):  # fmt: skip
        target = tmp_path / name
        if name == "all":
            target.mkdir()  # an empty one is as good
        would = stored.call("restore", target, *point, "--dry-run", "--json").json
        assert not target.exists() or not list(target.iterdir())
        restored = stored.call("restore", target, *point, "--json").json
        assert restored["restored"]
        assert not would["restored"]
        for field in ("records", "start_offset", "end_offset", "last_time", "objects"):
            assert would[field] == restored[field]
        assert (restored["records"], restored["end_offset"]) == (end, end)
        result = call("verify", target)
        assert (result.code, result.lines[0][:6]) == (OK, b"clean:")
        assert call("replay", target).lines == numbered(end)
        fill(target, [b"more"])
        assert call("tail", target, "-n", 1, "--json").json["offset"] == end
        assert not list(tmp_path.glob("*.restoring"))


def test_one_round_with_a_directory_as_the_store(stored: Stored, tmp_path: Path) -> None:
    check_one_round(stored, tmp_path)


def test_one_round_with_an_s3_server(in_s3: Stored, tmp_path: Path) -> None:
    check_one_round(in_s3, tmp_path)


def test_catalogs_may_be_in_etcd(stored: Stored, tmp_path: Path, etcd: EtcdServer) -> None:
    topic = f"/default/{secrets.token_hex(6)}"
    metadata = ("--metadata", etcd.url.replace("http://", "etcd://"))
    options = (*stored.options[:2], *metadata)
    fill(stored.log, numbered(30), segment_bytes=500)
    assert call("upload", stored.log, *options, "--topic", topic).code == OK
    assert call("replay", *options, "--topic", topic).lines == numbered(30)
    assert call("verify", *options, "--topic", topic).code == OK
    (found,) = call("topics", *options, "--json").objects
    assert (found["topic"], found["store"]["end_offset"]) == (topic, 30)
    assert call("restore", tmp_path / "new", *options, "--topic", topic).code == OK
    assert call("replay", tmp_path / "new").lines == numbered(30)
    result = call("replay", *options, "--prefix", "x")
    assert (result.code, result.out) == (USAGE, b"")
    assert "missing: --topic" in result.err


# ---- what to use


def _name(value: tuple[str, ...] | str) -> str | None:
    return " ".join(value) if isinstance(value, tuple) else None


def test_the_store_may_come_from_the_environment(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stored.log, numbered(30))
    monkeypatch.setenv("DANUBE_STORE", stored.options[1])
    assert call("upload", stored.log, "--topic", TOPIC).code == OK
    assert call("replay", "--topic", TOPIC).lines == numbered(30)
    assert b"store" in call("topics").out
    # Beside a directory it is used only for a log that is named.
    assert "store" not in call("info", stored.log, "--json").json
    assert "store" in call("info", stored.log, "--topic", TOPIC, "--json").json
    assert call("replay", "--store", "memory:", "--topic", TOPIC).code == USAGE


def test_the_front_of_a_log_comes_from_the_store(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, numbered(30))
    assert stored.upload("--seal").out.endswith(b", and left sealed\n")
    write_elsewhere(stored, tmp_path, [b"uploaded"])
    log = tmp_path / "elsewhere"
    fill(log, numbered(3))
    assert segments(log)[0].name == f"wal.{30:020d}.log"
    assert stored.call("replay", log).lines == [*numbered(30), b"uploaded", *numbered(3)]
    assert stored.call("tail", log, "-n", 5).lines == [numbered(30)[-1], b"uploaded", *numbered(3)]
    result = call("replay", log)
    assert result.code == IO
    assert "store" in result.err
    # What is not uploaded is not in the store.
    assert stored.call("tail", "-n", 1).lines == [b"uploaded"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("replay",), "missing: DIR or --store (or the variable DANUBE_STORE)"),
        (("tail",), "missing: DIR or --store"),
        (("info",), "missing: DIR or --store"),
        (("verify",), "missing: DIR or --store"),
        (("topics",), "missing: DIR or --store"),
        (("upload", "{log}"), "missing: --store (or the variable DANUBE_STORE)"),
        (("restore", "{tmp}/new"), "missing: --store"),
        (("replay", "--store", "{store}"), "missing: --topic /NAMESPACE/NAME or --prefix"),
        (("replay", "{log}", "--store", "{store}"), "missing: --topic"),
        (("upload", "{log}", "--store", "{store}"), "missing: --topic"),
        (("replay", "{log}", "--topic", "/a/b"), "missing: --store"),
        (("replay", "{log}", "--store-option", "region=x"), "missing: --store"),
        (("replay", "--store", "{store}", "--topic", "/a/b", "--prefix", "c"), "exclude each"),
        (("topics", "--store", "{store}", "--topic", "/a/b"), "topics lists all of them"),
        (("topics", "{log}"), "is the directory of one log"),
        (("replay", "--store", "memory:", "--topic", "/a/b"), "a new and empty store"),
        (("replay", "--store", "file://x", "--topic", "/a/b"), "must name an absolute path"),
        (("replay", "--store", "ftp://x", "--topic", "/a/b"), "must begin with one of s3://"),
        (("replay", "--store", "{store}", "--topic", "/a/b"), "/a/b: the log is not"),
        (("info", "--store", "{store}", "--topic", "/a/b"), "the log is not there"),
        (("restore", "{tmp}/new", "--store", "{store}", "--topic", "/a/b"), "the log is not"),
        (("replay", "--store", "{store}", "--prefix", "/"), "missing: --topic"),
        (("replay", "--store-option", "x"), "must look like KEY=VALUE"),
        (("replay", "--store", "s3://x", "--prefix", "x", "--store-option", "no=x"), "option no"),
        (
            ("replay", "--store", "s3://x", "--prefix", "x", "--store-option", "max_retries=x"),
            "max_retries='x' must be a whole number",
        ),
        (
            ("replay", "--store", "s3://x", "--prefix", "x", "--store-options", "{tmp}/none"),
            "No such file",
        ),
        (
            ("replay", "--store", "s3://x", "--prefix", "x", "--store-options", "{tmp}/bad.toml"),
            "bad.toml: ",
        ),
        (
            ("replay", "--store", "s3://x", "--prefix", "x", "--store-options", "{tmp}/bad.json"),
            "must be an object",
        ),
        (
            ("replay", "--store", "{store}", "--topic", "/a/b", "--metadata", "u:secret@host"),
            "must look like etcd://host:2379",
        ),
        (("restore", "{log}", *["--store", "{store}", "--topic", "/default/orders"]), "not empty"),
        (
            ("restore", "{tmp}/new", *["--store", "{store}", "--topic", "/default/orders"],
             "--until", "31"), "beyond what the store holds, which ends at 30",
        ),
        (("restore", "{tmp}/new", "--store", "{store}", "--until", "x"), "neither an offset nor"),
        (
            ("replay", "--store", "{store}", "--topic", "/default/orders", "--skip-corrupt"),
            "--skip-corrupt needs DIR",
        ),
    ],
    ids=_name,
)  # fmt: skip
def test_wrong_usage_says_what_is_missing(
    stored: Stored, tmp_path: Path, args: tuple[str, ...], complaint: str
) -> None:
    fill(stored.log, numbered(30))
    stored.upload()
    (tmp_path / "bad.toml").write_text("x")
    (tmp_path / "bad.json").write_text("[]")
    names = {"log": stored.log, "tmp": tmp_path, "store": stored.options[1]}
    before = sorted(tmp_path.iterdir())
    result = call(*(arg.format(**names) for arg in args))
    assert (result.code, result.out) == (USAGE, b"")
    assert complaint in result.err
    assert "secret" not in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_store_that_does_not_answer_ends_with_5(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(backoff: Backoff, attempt: int) -> float:
        del backoff, attempt
        return 0.0

    monkeypatch.setattr(Backoff, "pause_after", none)
    fill(stored.log, numbered(3))
    with socket.socket() as taken:  # it does not listen
        taken.bind(("127.0.0.1", 0))
        options: list[object] = ["--store", "s3://bucket", "--topic", TOPIC]
        for option in (
            f"endpoint=http://127.0.0.1:{taken.getsockname()[1]}",
            "allow-http=true",
            "access_key_id=a",
            "secret_access_key=the-secret",
            "region=x",
            "max_retries=0",
        ):
            options += ["--store-option", option]
        for args in (
            ("upload", stored.log),
            ("restore", tmp_path / "new"),
            ("replay",),
            ("verify", stored.log),
            ("info", stored.log),
        ):
            result = call(*args, *options)
            assert result.code == IO
            assert "s3://bucket" in result.err
            assert "the-secret" not in result.err
        result = call("topics", *options[:2], *options[4:])
        assert (result.code, result.out) == (IO, b"")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("module", "args", "hint"),
    [
        ("obstore", ["--store", "s3://x", "--prefix", "y"], "danube-trio[cloud]"),
        ("httpx2", ["--store", "file:///x", "--topic", "/x/y", "--metadata", "etcd://h:1"], "etcd"),
    ],
)
def test_without_a_package_it_says_what_to_install(module: str, args: list[str], hint: str) -> None:
    done = run_program(
        f"import sys\nsys.modules[{module!r}] = None\nsys.argv[1:] = ['replay', *{args!r}]\n"
        "from danube_trio.cli import main\nmain()"
    )
    assert done.returncode == USAGE
    assert b"pip install" in done.stderr
    assert hint.encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_help_imports_no_store() -> None:
    program = (
        "import sys\nfrom danube_trio.cli import main\nsys.argv[1:] = ['restore', '--help']\n"
        "try:\n    main()\nfinally:\n"
        "    assert not {'obstore', 'httpx2', 'danube_trio.cli._restore'} & {*sys.modules}"
    )
    done = run_program(program)
    assert (done.returncode, done.stderr) == (OK, b"")


# ---- upload


def test_an_upload_that_has_nothing_to_do_begins_no_epoch(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, numbered(30))
    stored.upload()
    before = manifests(tmp_path)
    result = stored.upload()
    assert (result.code, result.out) == (OK, b"everything was uploaded already\n")
    assert stored.upload("--dry-run").out.startswith(b"would upload 0 records")
    assert manifests(tmp_path) == before
    fill(stored.log, numbered(3))
    assert stored.upload().out.startswith(b"uploaded 3 records, offsets 30 to 33 (exclusive)")
    assert stored.upload("--seal").out == b"everything was uploaded already, and left sealed\n"
    assert stored.call("info", "--json").json["store"]["sealed"]
    before = manifests(tmp_path)
    assert stored.upload("--seal").out == b"everything was uploaded already, and left sealed\n"
    assert manifests(tmp_path) == before


def test_a_segment_that_is_read_back_in_parts_is_uploaded(stored: Stored, tmp_path: Path) -> None:
    """Of a part of an object, a directory gives no tag."""
    fill(stored.log, [b"%d" % i * 1_000_000 for i in range(9)])
    result = stored.upload("--timeout", 10, "--json")
    assert (result.code, result.json["segments"]) == (OK, 1)
    assert result.json["size_bytes"] > 2 * (4 << 20)
    assert stored.call("verify").code == OK
    assert stored.call("restore", tmp_path / "new").code == OK
    assert call("verify", tmp_path / "new").code == OK


async def test_a_log_that_is_held_is_not_uploaded_but_can_be_looked_at(stored: Stored) -> None:
    async with open_wal(WalConfig(dir=stored.log)) as wal:
        await wal.append_batch(numbered(30))

        async def tool(*args: object) -> Result:
            return await trio.to_thread.run_sync(lambda: stored.upload(*args))

        result = await tool()
        assert result.code == LOCKED
        result = await tool("--dry-run")
        assert result.out.startswith(b"would upload 30 records, offsets 0 to 30 (exclusive)")


def test_a_directory_without_a_log_is_not_made_one(stored: Stored) -> None:
    assert stored.upload().code == USAGE
    stored.log.mkdir()
    result = stored.upload()
    assert result.code == USAGE
    assert "no log 'wal.log' here" in result.err
    assert list(stored.log.iterdir()) == []


def test_a_log_that_another_directory_took_over_is_uploaded_only_when_told(
    stored: Stored, tmp_path: Path
) -> None:
    fill(stored.log, numbered(30))
    stored.upload()
    fill(stored.log, [b"lost"])
    write_elsewhere(stored, tmp_path, [b"a", b"b"])
    before = {path: path.read_bytes() for path in stored.log.iterdir()}
    assert b"would upload nothing: the log was taken over" in stored.upload("--dry-run").out
    result = stored.upload()
    assert result.code == IO
    assert "--take-over" in result.err
    assert {path: path.read_bytes() for path in stored.log.iterdir()} == before
    assert b"took the log over" in stored.call("verify", stored.log).out
    result = stored.upload("--take-over", "--json")
    assert result.code == OK
    assert ".fenced" in result.json["notes"][0]
    assert len(list(stored.log.glob("*.fenced"))) == 1
    assert stored.call("replay").lines == [*numbered(30), b"a", b"b"]
    assert stored.call("replay", stored.log).lines == [*numbered(30), b"a", b"b"]


def write_elsewhere(stored: Stored, tmp_path: Path, payloads: list[bytes]) -> None:
    async def write() -> None:
        async with DirectoryStore(tmp_path / "objects", RealDisk()) as store:
            config = WalConfig(dir=tmp_path / "elsewhere", topic_name=TOPIC)
            async with open_wal(config, store=store) as wal:
                await wal.append_batch(payloads, durability="uploaded")

    trio.run(write)


def test_a_damaged_segment_is_not_uploaded(stored: Stored) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    flip(segments(stored.log)[1], 40)
    result = stored.upload("--timeout", 30)
    assert (result.code, result.out) == (CORRUPT, b"")
    assert f"danube-trio repair {stored.log}" in result.err
    assert segments(stored.log)[1].name in result.err


# ---- verify


@pytest.mark.parametrize("change", ["flip", "cut", "missing", "catalogued"])
def test_verify_finds_what_is_wrong_in_a_store(stored: Stored, tmp_path: Path, change: str) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    first, second = objects(tmp_path)[:2]
    data = second.read_bytes()
    if change == "flip":
        flip(second, 40)
    elif change == "cut":
        second.write_bytes(data[:-1])
    elif change == "missing":
        second.unlink()
    else:  # another object under its name: whole, and not what was uploaded
        second.write_bytes(first.read_bytes())
    result = stored.call("verify")
    assert result.code == PROBLEMS
    problems = [line for line in result.out.decode().splitlines() if line.startswith("problem: ")]
    assert problems
    assert all(second.name in line for line in problems)
    *found, last = stored.call("verify", stored.log, "--json").objects
    assert last["summary"]["problems"] == len(problems)
    assert {finding["severity"] for finding in found} == {"problem"}
    # What is damaged is refused by a restore, which says how far it could go.
    result = stored.call("restore", tmp_path / "new")
    assert (result.code, result.out) == (CORRUPT, b"")
    assert second.name in result.err
    assert not (tmp_path / "new").exists()


def test_verify_notes_what_no_catalog_names(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, numbered(30))
    stored.upload()
    stranger = objects(tmp_path)[0].with_name("other.dnb1")
    stranger.write_bytes(b"x")
    result = stored.call("verify")
    assert result.code == OK
    assert result.lines[0].startswith(b"note: ")
    assert stranger.name.encode() in result.lines[0]


def test_verify_sees_that_directory_and_catalog_do_not_fit(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    other = tmp_path / "other"
    fill(other, numbered(5), codec="s2-legacy")
    result = stored.call("verify", other)
    assert result.code == PROBLEMS
    assert b"the directory holds a log in s2-legacy, and the catalog one in s5" in result.out


# ---- restore


def test_an_interrupted_restore_says_how_to_go_on(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, [b"x" * 100_000] * 300, segment_bytes=1 << 20)
    stored.upload()
    target = tmp_path / "new"
    process = subprocess.Popen(
        [*COMMAND, "restore", str(target), *stored.options],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    staging = Path(f"{target}.restoring")
    while process.poll() is None and not list(staging.glob("*.log")):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    if process.returncode == OK:
        pytest.skip("it was done before it could be interrupted")
    assert (process.returncode, out) == (130, b"")
    assert f"interrupted: the same command goes on with what is in {staging}" in err.decode()
    assert not target.exists()
    done = stored.call("restore", target, "--json").json
    assert done["resumed_bytes"] > 0
    assert done["fetched_bytes"] < done["size_bytes"]
    assert call("verify", target).code == OK


# ---- repair


@pytest.mark.parametrize("change", ["flip", "missing", "both"])
def test_repair_gives_damaged_segments_up_for_objects(
    stored: Stored, tmp_path: Path, change: str
) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    fill(stored.log, [b"not uploaded"])
    third, fourth = segments(stored.log)[2:4]
    if change != "missing":
        flip(third, 40)
    if change != "flip":
        fourth.unlink()
    before = {path.name: path.read_bytes() for path in stored.log.iterdir()}
    result = stored.call("repair", stored.log)
    assert result.code == PROBLEMS
    assert b"plan: heal: " in result.out
    assert result.lines[-1] == b"nothing was changed: run it again with --yes"
    assert {path.name: path.read_bytes() for path in stored.log.iterdir()} == before
    result = stored.call("repair", stored.log, "--yes")
    assert (result.code, result.err) == (OK, "")
    assert result.lines[-1] == b"repaired, and verified: no problems"
    assert len(list(stored.log.glob("*.corrupt"))) == (0 if change == "missing" else 1)
    assert stored.call("verify", stored.log).code == OK
    assert stored.call("replay", stored.log).lines == [*numbered(30), b"not uploaded"]
    assert stored.call("repair", stored.log).lines[-1] == b"nothing to repair"
    assert stored.upload().code == OK
    assert stored.call("replay").lines == [*numbered(30), b"not uploaded"]


def test_repair_relies_on_no_object_that_is_not_whole(stored: Stored, tmp_path: Path) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    flip(segments(stored.log)[1], 40)
    flip(objects(tmp_path)[1], 50)
    before = {path.name: path.read_bytes() for path in stored.log.iterdir()}
    result = stored.call("repair", stored.log, "--yes", "--json")
    assert result.code == CORRUPT
    assert "the objects are not whole either" in result.err
    assert all(isinstance(line, dict) for line in result.objects)
    assert {path.name: path.read_bytes() for path in stored.log.iterdir()} == before


def test_repair_relies_on_no_store_that_another_directory_writes(
    stored: Stored, tmp_path: Path
) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    write_elsewhere(stored, tmp_path, [b"a"])
    flip(segments(stored.log)[1], 40)
    result = stored.call("repair", stored.log, "--yes")
    assert (result.code, result.out) == (USAGE, b"")
    assert "Repair it without --store" in result.err


@pytest.mark.parametrize("own", [True, False])
def test_repair_makes_a_lost_catalog_anew_of_the_objects(
    stored: Stored, tmp_path: Path, own: bool
) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    where = [stored.log] if own else []
    assert stored.call("repair", *where).lines == [b"nothing to repair"]
    for manifest in (tmp_path / "objects").rglob("manifest/*"):
        manifest.unlink()
    result = stored.call("replay")
    assert result.code == USAGE
    names = [path.name for path in objects(tmp_path)]
    result = stored.upload()
    assert result.code == CORRUPT
    assert "repair --store" in result.err
    result = stored.call("repair", *where)
    assert result.code == PROBLEMS
    assert b"plan: adopt: " in result.out
    assert not list((tmp_path / "objects").rglob("manifest/*"))
    assert stored.call("repair", *where, "--yes").code == OK
    assert stored.call("replay").lines == numbered(30)
    assert [path.name for path in objects(tmp_path)] == names
    assert stored.upload().code == OK
    assert stored.call("verify", *where).code == OK
    assert stored.call("repair", *where).lines == [b"nothing to repair"]


@pytest.mark.happens
def test_verify_says_that_a_catalog_is_older_than_its_objects(
    stored: Stored, tmp_path: Path
) -> None:
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    manifests = tmp_path / "objects/storage/topics/default/orders/manifest"
    older = {path.name for path in manifests.iterdir()}
    fill(stored.log, numbered(30), segment_bytes=500)
    stored.upload()
    for path in manifests.iterdir():
        if path.name not in older:
            path.unlink()
    result = stored.call("verify")
    assert result.code == PROBLEMS
    assert b"older than" in result.out


# ---- topics


def test_topics_of_directories_and_stores_are_listed_together(
    stored: Stored, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    fill(root / "default" / "orders", numbered(30))
    fill(root / "default" / "local", numbered(3))
    (root / "default" / "nothing").mkdir()
    (root / "file").write_bytes(b"")
    call("upload", root / "default" / "orders", *stored.options)
    local = call("topics", root, "--json").objects
    assert [row["topic"] for row in local] == ["/default/local", "/default/orders"]
    assert [row["store"] for row in local] == [None, None]
    assert (local[0]["local"]["end_offset"], local[0]["local"]["holder"]) == (3, None)
    both = call("topics", root, *stored.options[:2], "--json").objects
    assert both[1]["store"]["owner"] == both[1]["local"]["directory_id"]
    assert call("topics", root, *stored.options[:2]).lines[0].startswith(b"start  end")
    assert len(call("topics", root, *stored.options[:2]).lines) == 4
    assert call("topics", tmp_path / "missing").code == USAGE


def test_a_topic_that_cannot_be_looked_at_is_listed(stored: Stored, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root / "a" / "good", numbered(30))
    fill(root / "a" / "bad", numbered(30))
    flip(root / "a" / "bad" / "wal.meta", 5)
    result = call("topics", root)
    assert result.code == PROBLEMS
    assert b"CRC" in result.lines[1]
    fill(stored.log, numbered(3))
    stored.upload()
    for name in manifests(tmp_path):
        flip(tmp_path / "objects/storage/topics/default/orders/manifest" / name, 5)
    result = call("topics", *stored.options[:2], "--json")
    assert result.code == PROBLEMS
    assert "error" in result.json["store"]


async def test_a_deleted_log_is_listed_and_not_restored(stored: Stored, tmp_path: Path) -> None:
    def upload() -> None:
        fill(stored.log, numbered(30))
        stored.upload()

    await trio.to_thread.run_sync(upload)
    async with DirectoryStore(tmp_path / "objects", RealDisk()) as store:
        catalog = ManifestCatalog(store, f"storage/topics{TOPIC}")
        state = await catalog.latest()
        assert state is not None
        await catalog.publish(state, attrs.evolve(state.left_deleted(), nonce="00"))

    def look(*args: object) -> Callable[[], Result]:
        return lambda: call(*args, *stored.options)

    result = await trio.to_thread.run_sync(look("restore", tmp_path / "new"))
    assert result.code == USAGE
    assert "was deleted" in result.err
    result = await trio.to_thread.run_sync(look("info"))
    assert b"(deleted)" in result.out


def test_the_page_lists_the_variables() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name in ("DANUBE_STORE", "DANUBE_ETCD_USERNAME", "DANUBE_ETCD_PASSWORD"):
        assert f"`{name}`" in page
