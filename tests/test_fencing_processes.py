"""Two processes fight for one log on real servers; one is stopped anywhere, and wakes up later."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from servers import Server

from danube_trio import open_replica
from danube_trio._disk.real import RealDisk
from danube_trio.catalog import Catalog, ManifestCatalog, MetadataCatalog
from danube_trio.cloud import StoreOptions, open_store
from danube_trio.metadata import EtcdConfig, open_etcd

CHILD = Path(__file__).with_name("fencing_child.py")
ROUNDS = int(os.environ.get("DANUBE_FENCING_ROUNDS", "3"))


@attrs.define(eq=False)
class Writer:
    """A running child, and what it said."""

    process: subprocess.Popen[str]
    acked: dict[int, str] = attrs.Factory(dict[int, str])
    fenced: bool = False

    def lines(self) -> Iterator[list[str]]:
        """What it says, as it says it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "acked":
                self.acked[int(words[1])] = words[2]
            self.fenced |= words[0] == "fenced"
            yield words

    def wait_for(self, count: int) -> None:
        """Read until it has so many acknowledgements more."""
        for words in self.lines():
            count -= words[0] == "acked"
            if count <= 0:
                return
        raise AssertionError(f"the writer ended: {self.process.wait()}")

    def finish(self) -> None:
        """Read to its end."""
        for _ in self.lines():
            pass
        assert self.process.wait() == 0


@contextmanager
def writer(**given: Any) -> Generator[Writer]:
    process = subprocess.Popen(
        [sys.executable, str(CHILD), json.dumps(given)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHILD.parent.parent)},
    )
    try:
        yield Writer(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def fight(tmp_path: Path, given: dict[str, Any]) -> dict[int, str]:
    """Stop one writer somewhere, let another take over, wake the first; everything acked."""
    chance = random.Random(7)
    acked: dict[int, str] = {}
    for number in range(ROUNDS):
        with writer(**given, dir=str(tmp_path / f"a{number}")) as sleeper:
            sleeper.wait_for(1 + chance.randrange(6))
            sleeper.process.send_signal(signal.SIGSTOP)  # anywhere in the next append
            with writer(**given, dir=str(tmp_path / f"b{number}")) as other:
                other.wait_for(1 + chance.randrange(6))
                sleeper.process.send_signal(signal.SIGCONT)
                sleeper.finish()
                assert sleeper.fenced
                other.wait_for(2)  # it goes on, whatever the sleeper did
        for found in (sleeper.acked, other.acked):
            assert not acked.keys() & found.keys()  # no offset was acknowledged twice
            acked |= found
    return acked


async def check(acked: dict[int, str], given: dict[str, Any], catalog: Catalog) -> None:
    store = open_store(given["store"], StoreOptions(**given["options"]), disk=RealDisk())
    async with store, open_replica(store, catalog=catalog) as replica:
        found = {m.offset: m.payload.decode() async for m in replica.reader(end="current")}
    assert list(found) == list(range(len(found)))
    assert {offset: found.get(offset) for offset in acked} == acked


def settings(store: str, options: StoreOptions, etcd: str | None) -> dict[str, Any]:
    return {
        "topic": f"/default/{secrets.token_hex(6)}",
        "store": store,
        "options": attrs.asdict(options),
        "etcd": etcd,
    }


async def test_a_directory_and_its_manifests(tmp_path: Path) -> None:
    given = settings(f"file://{tmp_path}/objects", StoreOptions(), None)
    acked = fight(tmp_path, given)
    store = open_store(given["store"], disk=RealDisk())
    await check(acked, given, ManifestCatalog(store, f"storage/topics{given['topic']}"))


async def test_s3_and_its_manifests(tmp_path: Path, s3: Server) -> None:
    given = settings(f"{s3.url}/{secrets.token_hex(6)}", s3.options, None)
    acked = fight(tmp_path, given)
    async with open_store(given["store"], s3.options) as store:
        await check(acked, given, ManifestCatalog(store, f"storage/topics{given['topic']}"))


async def test_s3_and_etcd(tmp_path: Path, s3: Server, request: pytest.FixtureRequest) -> None:
    etcd = request.getfixturevalue("etcd").url
    given = settings(f"{s3.url}/{secrets.token_hex(6)}", s3.options, etcd)
    acked = fight(tmp_path, given)
    async with open_etcd(EtcdConfig(endpoints=(etcd,))) as metadata:
        await check(acked, given, MetadataCatalog(metadata, given["topic"]))
