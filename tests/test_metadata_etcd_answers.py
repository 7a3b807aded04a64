"""What answers instead of etcd: pages, other programs' JSON, nonsense. Never an empty store."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from fake_http import answering

from danube_trio.errors import AccessDeniedError, StoreUnavailableError, WatchLostError
from danube_trio.metadata import EtcdConfig, EtcdMetadata, Revised, open_etcd
from danube_trio.metadata._etcd_gateway import Gateway
from danube_trio.metadata._etcd_watch import EtcdWatch

HEADER = {"cluster_id": "1", "member_id": "2", "revision": "7", "raft_term": "3"}
DEEP = 200_000


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def entry(key: str, **fields: object) -> dict[str, object]:
    return {"key": encode(key), "value": encode("v"), "mod_revision": "5", **fields}


def answer(**fields: object) -> bytes:
    return json.dumps({"header": HEADER, **fields}).encode()


def raw(fields: str) -> bytes:
    """With what json does not write: numbers without end, nesting."""
    return b'{"header": ' + json.dumps(HEADER).encode() + b", " + fields.encode() + b"}"


CALLS: dict[str, Callable[[EtcdMetadata], Awaitable[object]]] = {
    "get": lambda store: store.get("/a"),
    "list": lambda store: store.list_entries("/"),
    "put": lambda store: store.put("/a", b""),
    "put for a while": lambda store: store.put("/a", b"", ttl=5),
    "delete": lambda store: store.delete("/a"),
    "transact": lambda store: store.transact({"/a": 0}, put={"/a": b""}),
    "check": lambda store: store.check(),
}
NOT_ETCD = {
    "a page": b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>",
    "nothing": b"",
    "an empty object": b"{}",
    "an empty list": b"[]",
    "null": b"null",
    "a list of entries": json.dumps([entry("/a")]).encode(),
    "another program's object": b'{"status": "ok", "kvs": []}',
    "no header, but entries": json.dumps({"kvs": [entry("/a")], "count": "1"}).encode(),
    "a header that is text": b'{"header": "7"}',
    "a header that is null": b'{"header": null}',
    "nesting": b"[" * DEEP + b"]" * DEEP,
    "nested objects": b'{"header":' * DEEP + b"1" + b"}" * DEEP,
    "nesting that json reads": b"[" * 900 + b"]" * 900,
    "a number without end": b"1e999",
    "bytes": bytes(range(256)),
    "UTF-16": "<html></html>".encode("utf-16"),
    "half": answer(kvs=[entry("/a")])[:-3],
}


@pytest.mark.parametrize("kind", NOT_ETCD)
@pytest.mark.parametrize("status", [200, 500])
async def test_what_is_not_etcd_is_reported(kind: str, status: int) -> None:
    with answering((status, NOT_ETCD[kind])) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        for call in CALLS.values():
            with pytest.raises(StoreUnavailableError):
                await call(store)
        await store.aclose()


NUMBERS = (
    *("1e999", "-1", "1.5", '"x"', '"-1"', "null", "true", "[]", "{}", '"٣"', '"1e3"', "NaN"),
    *("9" * 30, '"' + "9" * 30 + '"', "9" * 5000, "[" * 900 + "]" * 900, "[" * DEEP),
)


def with_revision(number: str) -> bytes:
    return b'{"header": {"revision": ' + number.encode() + b"}}"


@pytest.mark.parametrize("number", [*NUMBERS, None], ids=range(len(NUMBERS) + 1))
async def test_a_revision_that_is_no_number_is_reported(number: str | None) -> None:
    body = b'{"header": {}}' if number is None else with_revision(number)
    with answering((200, body)) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        for name in CALLS.keys() - {"check"}:
            with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
                await CALLS[name](store)
        await store.aclose()


def entries(fields: str) -> bytes:
    return raw(f'"kvs": [{{"key": "{encode("/a")}", "mod_revision": "5", {fields}}}]')


BAD_ENTRIES = {
    "a dict": raw('"kvs": {}'),
    "text": raw('"kvs": ""'),
    "null": raw('"kvs": null'),
    "a number": raw('"kvs": 0'),
    "entries that are text": raw('"kvs": ["a"]'),
    "entries that are null": raw('"kvs": [null]'),
    "an entry without a key": raw('"kvs": [{"value": "", "mod_revision": "5"}]'),
    "an entry without a revision": raw(f'"kvs": [{{"key": "{encode("/a")}"}}]'),
    "a key that is a number": raw('"kvs": [{"key": 7, "mod_revision": "5"}]'),
    "a key that is no base64": raw('"kvs": [{"key": "/a", "mod_revision": "5"}]'),
    "a value that is no base64": entries('"value": "<html>"'),
    "a value with half a group": entries('"value": "YQ"'),
    "a value that is a list": entries('"value": []'),
    "a key that was not asked for": answer(kvs=[entry("x")]),
    "one key twice": answer(kvs=[entry("/a"), entry("/a")]),
    "more, and nothing": answer(more=True),
    "more, that is text": answer(kvs=[entry("/a")], more="yes"),
}


@pytest.mark.parametrize("kind", BAD_ENTRIES)
async def test_entries_that_are_none_are_reported(kind: str) -> None:
    with answering((200, BAD_ENTRIES[kind])) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        calls: list[Callable[[], Awaitable[object]]] = [partial(store.list_entries, "/")]
        if not kind.startswith("more"):
            calls.append(partial(store.get, "/a"))
        for call in calls:
            with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
                await call()
        await store.aclose()


@pytest.mark.parametrize("number", NUMBERS, ids=range(len(NUMBERS)))
async def test_an_entry_whose_revision_is_no_number_is_reported(number: str) -> None:
    body = raw(f'"kvs": [{{"key": "{encode("/a")}", "mod_revision": {number}}}]')
    with answering((200, body)) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
            await store.get("/a")
        await store.aclose()


async def test_pages_of_a_list_go_forward_or_are_reported() -> None:
    first = (200, answer(kvs=[entry("/a"), entry("/b")], more=True))
    for second in (first, (200, answer(kvs=[entry("/b")])), (200, answer(more=True))):
        with answering(first, second) as script:
            store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
            with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
                await store.list_entries("/")
            await store.aclose()
    with answering(first, (200, answer(kvs=[entry("/c")]))) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        assert [e.key for e in await store.list_entries("/")] == ["/a", "/b", "/c"]
        await store.aclose()


async def test_zeros_that_the_gateway_leaves_out_are_no_nonsense() -> None:
    with answering((200, answer())) as script:
        async with open_etcd(EtcdConfig(endpoints=script.endpoint)) as store:
            assert await store.get("/a") is None
            assert await store.list_entries("/") == []
            assert await store.delete("/a") is False
            assert await store.transact({"/a": 3}) is None
            assert await store.put("/a", b"") == 7
    with answering((200, answer(kvs=[{"key": encode("/a"), "mod_revision": "5"}]))) as script:
        async with open_etcd(EtcdConfig(endpoints=script.endpoint)) as store:
            assert await store.get("/a") == Revised("/a", b"", 5)


@pytest.mark.parametrize("lease", ["0", 0, None, [], True, -3, "x", 1e300])
async def test_a_lease_that_is_none_is_not_used(lease: object) -> None:
    """With 0 the entry would last."""
    with answering((200, answer(ID=lease, TTL="5"))) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
            await store.put("/a", b"", ttl=5)
        assert script.requests == ["POST /v3/lease/grant"]
        await store.aclose()


@pytest.mark.parametrize("field", ["succeeded", "deleted"])
@pytest.mark.parametrize("value", ["1e999", '"yes"', "[1]", "{}", "null", "-1"])
async def test_an_outcome_that_is_none_is_reported(field: str, value: str) -> None:
    with answering((200, raw(f'"{field}": {value}'))) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        call = CALLS["delete" if field == "deleted" else "transact"]
        with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
            await call(store)
        await store.aclose()


@pytest.mark.parametrize("token", ["null", "7", '""', '"a\\r\\nb: c"', '"ü"', "[]"])
async def test_a_token_that_no_header_can_have_is_reported(token: str) -> None:
    with answering((200, raw(f'"token": {token}'))) as script:
        settings = EtcdConfig(endpoints=script.endpoint, username="a", password="b")
        store = EtcdMetadata(settings)
        with pytest.raises(StoreUnavailableError, match="does not answer like etcd"):
            await store.get("/a")
        assert script.requests == ["POST /v3/auth/authenticate"]
        await store.aclose()


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"code": 1e999}', b'{"code": "x", "message": []}', b'{"code": -1}', b'{"code": null}'),
        *(b'{"error": {"a": 1e999}}', b'{"message": ' + b"[" * 900 + b"]" * 900 + b"}"),
        *(b"[" * DEEP, b"\xff\xfe", b"", b"<html>"),
    ],
)
@pytest.mark.parametrize("status", [301, 400, 404, 429, 503])
async def test_a_refusal_that_says_nonsense_is_unavailable(body: bytes, status: int) -> None:
    with answering((status, body)) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        for call in CALLS.values():
            with pytest.raises(StoreUnavailableError):
                await call(store)
        await store.aclose()


async def test_a_proxy_that_forbids_is_a_refusal() -> None:
    with answering((403, b"<html>forbidden</html>")) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        with pytest.raises(AccessDeniedError, match="forbidden"):
            await store.get("/a")
        await store.aclose()


# -- watches


def message(**result: object) -> bytes:
    return json.dumps({"result": {"header": HEADER, **result}}).encode() + b"\n"


def event(key: str, revision: object, **fields: object) -> dict[str, object]:
    return {"kv": {"key": encode(key), "mod_revision": revision, **fields}}


BAD_MESSAGES = {
    "a page": b"<html>\n</html>\n",
    "an empty object": b"{}\n",
    "a list": b"[]\n",
    "nesting": b"[" * DEEP + b"\n",
    "a result that is text": b'{"result": "x"}\n',
    "a result without a header": b'{"result": {"events": []}}\n',
    "a revision without end": b'{"result": {"header": {"revision": 1e999}}}\n',
    "an error that is text": b'{"error": "no"}\n',
    "an error with a code without end": b'{"error": {"grpc_code": 1e999}}\n',
    "events that are a dict": message(events={}),
    "events that are text": message(events="ab"),
    "an event without an entry": message(events=[dict[str, object]()]),
    "an event without a revision": message(events=[{"kv": {"key": encode("/w/a")}}]),
    "an event with a fraction": message(events=[event("/w/a", 8.5)]),
    "an event of another prefix": message(events=[event("/x/a", "8")]),
    "a key that is no base64": message(events=[{"kv": {"key": "?", "mod_revision": "8"}}]),
    "a value that is no base64": message(events=[event("/w/a", "8", value="?")]),
    "created, as text": message(created="yes"),
    "canceled, as text": message(canceled="yes"),
    "a compaction without end": b'{"result": {"compact_revision": 1e999}}\n',
    "a compaction that is a list": message(compact_revision=[1]),
}


@pytest.mark.parametrize("kind", BAD_MESSAGES)
async def test_a_message_of_a_watch_that_is_none_is_reported(kind: str) -> None:
    now = (200, answer())
    with answering(now, now, now, (200, BAD_MESSAGES[kind])) as script:
        # No second try: what is said then would hide what was said.
        settings = EtcdConfig(endpoints=script.endpoint, watch_retry=0.001)
        store = EtcdMetadata(settings)
        async with store.watch("/w/") as events:
            with pytest.raises(StoreUnavailableError):
                await anext(events)
        await store.aclose()


def a_watch(seen: int) -> EtcdWatch:
    return EtcdWatch(Gateway(EtcdConfig()), b"/w/", seen)


def taken(watch: EtcdWatch, **result: Any) -> list[tuple[str, bool, int]]:
    watch._take({"header": HEADER, **result})
    ready = [(event.key, event.last, event.resume_after) for event in watch._ready]
    watch._ready.clear()
    return ready


def test_the_last_event_of_each_revision_says_so_across_fragments() -> None:
    watch = a_watch(0)
    first = [event("/w/a", "1"), event("/w/b", "2")]
    assert taken(watch, events=first, fragment=True) == [("/w/a", True, 1)]
    assert taken(watch, events=[event("/w/c", "2")], fragment=True) == []
    assert taken(watch, events=[event("/w/d", "2"), event("/w/e", "3")]) == [
        *(("/w/b", False, 1), ("/w/c", False, 1), ("/w/d", True, 2), ("/w/e", True, 3))
    ]


def test_a_foreign_key_at_the_end_of_a_change_leaves_the_one_before_the_last() -> None:
    foreign = base64.b64encode(b"/w/\xff").decode()
    events = [event("/w/a", "2"), event("/w/b", "2"), {"kv": {"key": foreign, "mod_revision": "2"}}]
    assert taken(a_watch(1), events=events) == [("/w/a", False, 1), ("/w/b", True, 2)]


def test_progress_between_fragments_does_not_skip_what_is_held() -> None:
    watch = a_watch(1)
    assert taken(watch, events=[event("/w/a", "2")], fragment=True) == []
    assert taken(watch) == [] and watch._seen == 1
    assert taken(watch, events=[event("/w/b", "2")]) == [("/w/a", False, 1), ("/w/b", True, 2)]
    assert taken(watch) == [] and watch._seen == 7


async def test_a_second_task_that_iterates_a_watch_is_refused() -> None:
    with answering((200, answer()), (200, answer()), "hang") as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        async with store.watch("/w/") as events, trio.open_nursery() as nursery:
            nursery.start_soon(events.__anext__)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(trio.BusyResourceError, match="another task is iterating"):
                await anext(events)
            nursery.cancel_scope.cancel()
        script.over.set()
        await store.aclose()


async def test_a_watch_whose_revision_was_compacted_is_lost_before_it_is_made() -> None:
    gone = json.dumps({"code": 11, "message": "mvcc: required revision has been compacted"})
    now = (200, answer())
    with answering(now, now, (400, gone.encode())) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        async with store.watch("/w/", after=5) as events:
            with pytest.raises(WatchLostError, match=r"compacted.*List the entries"):
                await anext(events)
        assert "POST /v3/watch" not in script.requests
        await store.aclose()
