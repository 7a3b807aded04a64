"""Subscriptions over HTTP: who is woken, who works, and what an acknowledgement is worth."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from http_client import ZERO, Client
from subscribers import (
    JSON,
    OK,
    WEBHOOKS,
    Subscriber,
    Wakes,
    Work,
    code,
    make,
    open_client,
    said,
    streams_of,
    write,
)

from danube_trio.http import HttpConfig, SubscriptionStatistics
from danube_trio.http._keys import TOKEN_SECONDS
from danube_trio.http._offsets import token
from danube_trio.http._patterns import (
    Patterns,
    canonical_pattern,
    covering,
    literal_prefix,
    matches,
)
from danube_trio.http._request import Refusal
from danube_trio.http._subscription import MAX_LEASE_MS, SNAPSHOT_STREAMS
from danube_trio.http._subscriptions import TOGETHER
from danube_trio.testing import SimClock, SimDisk, SimMetadata

FENCED = {"error": {"code": "FENCED"}}


# ---- patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a", ["a"], ["b", "a/b"]),
        ("*", ["a", "%2A"], ["a/b"]),
        ("**", ["a", "a/b", "a/b/c"], []),
        ("a/*", ["a/b"], ["a", "a/b/c", "b/a"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["b", "aa/b"]),
        ("**/a", ["a", "b/a", "b/c/a", "a/a"], ["a/b"]),
        ("a/**/b", ["a/b", "a/c/b", "a/c/d/b", "a/b/b"], ["a", "b", "a/b/c"]),
        ("*/**/*", ["a/b", "a/b/c"], ["a"]),
        ("**/a/**/b/**", ["a/b", "x/a/y/b/z", "a/a/b"], ["b/a", "a", "a/c"]),
        ("%2a", ["%2A"], ["a"]),
        ("a%20b/*", ["a%20b/c"], ["a b/c"]),
        ("/a/*/", ["a/b"], ["a"]),
    ],
)
def test_a_pattern_matches_whole_segments(pattern: str, yes: list[str], no: list[str]) -> None:
    found = canonical_pattern(pattern, 1024)
    assert [path for path in yes + no if matches(found, path)] == yes
    both: Patterns[str] = Patterns()
    both.add("it", found)
    both.add("other", "never/*/matched")
    assert [path for path in yes + no if "it" in both.of(path)] == yes
    both.remove("it", found)
    assert not [path for path in yes + no if "it" in both.of(path)]


def test_a_hard_pattern_takes_no_long_time() -> None:
    """A search that goes back to every star would take longer than the sun burns."""
    pattern = canonical_pattern("/".join(["**", "a"] * 30), 1024)
    assert not matches(pattern, "/".join(["a"] * 400 + ["b"]))
    assert matches(pattern, "/".join(["a"] * 400))


def test_what_a_pattern_has_before_its_first_star() -> None:
    assert [literal_prefix(p) for p in ("a/b/*", "a/**/b", "*", "a/b")] == ["a/b", "a", "", "a/b"]


@pytest.mark.parametrize("pattern", ["a*", "a/b**", "***", "a//b", "..", "a/%2e", "__ds/*", "%zz"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Refusal) as caught:
        canonical_pattern(pattern, 1024)
    assert caught.value.status == 400


# ---- making


async def test_the_same_configuration_is_confirmed_and_another_one_refused() -> None:
    async with open_client() as (client, _):
        sub = Subscriber(client)
        body = {"pattern": "a/*", "streams": ["x/1", "/x/2"], "description": "text"}
        made = await sub.made(**body)
        assert made["created_at"].startswith("2027-01-15T08:00:0")
        for same in (
            {"streams": ["x/2", "x/1", "x/1"]},
            {"pattern": "/a/*"},
            {"lease_ttl_ms": 30_000},
            {"webhook": None, "unknown": 1},
        ):
            answer = await sub.put(**{**body, **same})
            assert (answer.status, said(answer)) == (200, made)
        for other in (
            {"streams": ["x/1"]},
            {"pattern": "a/**"},
            {"pattern": None},
            {"lease_ttl_ms": 30_001},
            {"wake_stream": "other"},
            {"description": None},
        ):
            assert code(await sub.put(**{**body, **other})) == (409, "SUBSCRIPTION_ALREADY_EXISTS")
        # Naming one more changes nothing of what was asked for.
        assert (await sub.ask("POST", "/streams", {"streams": ["x/3"]})).status == 204
        assert (await sub.put(**body)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "push", "pattern": "a"},
        {"pattern": ""},
        {"pattern": 1},
        {"pattern": "a", "streams": "b"},
        {"pattern": "a", "streams": [1]},
        {"streams": ["a//b"]},
        {"streams": ["__ds/subscriptions/sub"]},
        {"streams": ["%5F%5Fds/jwks.json"]},
        {"streams": ["wake"]},
        {"pattern": "a", "wake_stream": None},
        {"pattern": "a", "lease_ttl_ms": 999},
        {"pattern": "a", "lease_ttl_ms": MAX_LEASE_MS + 1},
        {"pattern": "a", "lease_ttl_ms": 1000.0},
        {"pattern": "a", "lease_ttl_ms": True},
        {"pattern": "a", "description": "x" * 1025},
        {"type": "webhook", "pattern": "a"},
        {"type": "webhook", "pattern": "a", "webhook": "https://worker.example/"},
    ],
)
async def test_what_cannot_be_a_subscription_is_400(body: dict[str, Any]) -> None:
    async with open_client() as (client, _):
        sub = Subscriber(client)
        assert code(await sub.put(**body)) == (400, "INVALID_REQUEST")
        assert code(await sub.ask("GET")) == (404, "SUBSCRIPTION_NOT_FOUND")


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{", b"\xff", b'{"type":"a","type":"b"}'])
async def test_a_body_that_is_no_object_is_400(data: bytes) -> None:
    async with open_client() as (client, _):
        answer = await client.ask("PUT", "__ds/subscriptions/a", data, JSON)
        assert code(answer) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("id", ["a", "a%20b", "a%2Fb", "%E2%82%AC", "x" * 256])
async def test_an_id_is_any_segment(id: str) -> None:
    async with open_client() as (client, _):
        made = await Subscriber(client, id).made(pattern="**")
        assert made["id"] == made["subscription_id"]
        assert (await Subscriber(client, id.replace("E", "e")).get()) == made
        assert [s.path for s in streams_of(client).subscriptions()] == [f"__ds/subscriptions/{id}"]


async def test_limits_are_said() -> None:
    config = HttpConfig(max_subscriptions=2, max_links=3)
    async with open_client(config=config) as (client, _):
        assert code(await Subscriber(client, "x" * 257).put(pattern="a"))[0] == 414
        await make(client, "s/1", "s/2")
        one = Subscriber(client, "one")
        await one.made(pattern="s/*")
        assert code(await Subscriber(client, "two").put(pattern="s/*")) == (429, "TOO_MANY")
        await Subscriber(client, "two").made(streams=["s/1"])
        assert code(await one.ask("POST", "/streams", {"streams": ["a"]})) == (429, "TOO_MANY")
        await make(client, "s/3")  # a stream that nobody refused is never passed over
        assert set(await one.acked()) == {"s/1", "s/2", "s/3"}
        assert code(await Subscriber(client, "three").put(pattern="b")) == (429, "TOO_MANY")
        large = json.dumps({"streams": ["x" * 100] * 20_000}).encode()
        answer = await client.ask("POST", "__ds/subscriptions/one/streams", large, JSON)
        assert answer.status == 413


@pytest.mark.parametrize(
    ("method", "rest", "status"),
    [
        ("POST", "", 405),
        ("GET", "/streams", 405),
        ("PUT", "/streams/a", 405),
        ("GET", "/claim", 405),
        ("GET", "/ack", 405),
        ("GET", "/nothing", 404),
        ("POST", "/claim/more", 404),
        ("GET", "/../../jwks.json", 400),
    ],
)
async def test_what_the_protocol_has_not_is_refused(method: str, rest: str, status: int) -> None:
    async with open_client() as (client, _):
        await Subscriber(client).made(pattern="a")
        assert (await Subscriber(client).ask(method, rest)).status == status
        for path in ("__ds", "__ds/nothing", "__ds/subscriptions", "%5F%5Fds/x"):
            assert (await client.create(path)).status == 404


async def test_what_was_deleted_is_gone_with_its_tokens_and_an_id_can_be_had_again(
    autojump_clock: object,
) -> None:
    async with open_client() as (client, storage):
        await make(client, "wake", "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        work = await sub.claimed()
        assert (await sub.ask("DELETE")).status == 204
        for answer in (await sub.ask("GET"), await sub.ask("DELETE"), await sub.claim()):
            assert code(answer) == (404, "SUBSCRIPTION_NOT_FOUND")
        assert code(await sub.ack(work)) == (404, "SUBSCRIPTION_NOT_FOUND")
        await sub.made(pattern="s/*")
        assert code(await sub.ack(work)) == (401, "TOKEN_INVALID")
        assert code(await sub.release(work)) == (401, "TOKEN_INVALID")
        assert await sub.acked() == {"s/1": work.tails["s/1"]}, "it begins at the end"
        assert (await sub.ask("DELETE")).status == 204
        await until_clean(storage)
        kept = {"looks", "keys", "secret"}
        left = await storage.metadata.list_entries("/danube/http/subscriptions/")
        assert {each.key.rpartition("/")[2] for each in left} <= kept


async def until_clean(storage: Any) -> None:
    with trio.fail_after(10_000):
        while await storage.metadata.list_entries("/danube/http/subscriptions/trash/"):  # noqa: ASYNC110
            await trio.sleep(1)


# ---- links


async def test_streams_are_linked_where_they_end_and_later_ones_where_they_begin() -> None:
    async with open_client() as (client, _):
        await make(client, "s/1", "s/2", "t/1")
        end = await write(client, "s/1")
        sub = Subscriber(client)
        made = await sub.made(pattern="s/*", streams=["t/1", "t/2"])
        assert made["streams"] == [
            {"path": "t/1", "link_type": "explicit", "acked_offset": ZERO},
            {"path": "t/2", "link_type": "explicit", "acked_offset": ZERO},
            {"path": "s/1", "link_type": "glob", "acked_offset": end},
            {"path": "s/2", "link_type": "glob", "acked_offset": ZERO},
        ]
        assert (await sub.get())["pending"] == 0
        await make(client, "s/3", "t/2", body=b"[1,2]")
        assert (await sub.get())["pending"] == 2
        work = await sub.claimed()
        assert set(work.tails) == {"s/3", "t/2"}
        assert {s["path"]: s["link_type"] for s in work.streams} == {
            "s/1": "glob",
            "s/2": "glob",
            "s/3": "glob",
            "t/1": "explicit",
            "t/2": "explicit",
        }


async def test_a_fork_begins_at_its_own_data() -> None:
    async with open_client() as (client, _):
        await make(client, "a", body=b"[1,2,3]")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        assert (await client.fork("s/1", "a")).status == 201
        assert code(await sub.claim()) == (409, "NO_PENDING_WORK")
        end = await write(client, "s/1")
        assert (await sub.claimed()).tails == {"s/1": end}


async def test_named_streams_come_and_go() -> None:
    async with open_client() as (client, storage):
        await make(client, "s/1", "t/a%2Fb", body=b"[1]")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        paths = {"streams": ["s/1", "t/a%2Fb", "t/c", "t/ä"]}
        for _ in range(2):
            assert (await sub.ask("POST", "/streams", paths)).status == 204
        kinds = {s["path"]: s["link_type"] for s in (await sub.get())["streams"]}
        assert kinds == dict.fromkeys(["s/1", "t/a%2Fb", "t/c", "t/%C3%A4"], "explicit")
        end = (await sub.acked())["t/a%2Fb"]
        await write(client, "t/a%2Fb")
        assert (await sub.acked())["t/a%2Fb"] == end
        for rest in ("s%2F1", "t/a%252Fb", "t%2Fc", "t/nothing", "t%2F%C3%A4"):
            assert (await sub.ask("DELETE", f"/streams/{rest}")).status == 204
        kinds = {s["path"]: s["link_type"] for s in (await sub.get())["streams"]}
        assert kinds == {"s/1": "glob"}
        assert code(await sub.claim()) == (409, "NO_PENDING_WORK")
        for name in ("named", "cursors"):
            left = await storage.metadata.list_entries(f"/danube/http/subscriptions/{name}/")
            assert len(left) == (name == "cursors"), left
        # Named once more, it begins at the end.
        assert (await sub.ask("POST", "/streams", {"streams": ["t/a%2Fb"]})).status == 204
        assert code(await sub.claim()) == (409, "NO_PENDING_WORK")


async def test_a_subscription_is_not_woken_by_its_own_wake_stream(autojump_clock: object) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "a")
        sub = Subscriber(client)
        await sub.made(pattern="**")
        await write(client, "a")
        await Wakes(client).next()
        assert await sub.acked() == {"a": ZERO}
        work = await sub.claimed()
        assert said(await sub.ack(work)) == OK
        await trio.sleep(100)
        assert len(await Wakes(client).all()) == 1


async def test_a_stream_that_is_deleted_is_forgotten_and_its_successor_is_another() -> None:
    """Also when that comes while a worker still has the first one in hand."""
    clock = SimClock()
    async with open_client(clock=clock) as (client, storage):
        await make(client, "s/1", "s/2")
        sub = Subscriber(client)
        await sub.made(pattern="s/*", streams=["s/2"])
        for path in ("s/1", "s/2"):
            for _ in range(3):
                await write(client, path)
        work = await sub.claimed()
        assert set(work.tails) == {"s/1", "s/2"}
        await client.delete("s/1")
        await client.delete("s/2")
        assert await sub.acked() == {"s/2": ZERO}
        clock.step(1)
        await make(client, "s/1", "s/2", body=b"[1,2,3,4]")
        assert said(await sub.ack(work, done=False))["ok"]
        assert await sub.acked() == {"s/1": ZERO, "s/2": ZERO}
        assert said(await sub.ack(work, {})) == {"ok": True, "next_wake": True}
        cursors = await storage.metadata.list_entries("/danube/http/subscriptions/cursors/")
        assert not cursors


# ---- pull-wake


async def test_a_worker_is_woken_claims_and_acknowledges(autojump_clock: object) -> None:
    async with open_client(clock=SimClock(1_800_000_000.0)) as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*")
        end = await write(client, "s/1")
        event = await wakes.next()
        assert event | {"ts": 0} == {
            "type": "wake",
            "subscription_id": "sub",
            "stream": "s/1",
            "generation": 1,
            "ts": 0,
        }
        assert 1_800_000_000_000 <= event["ts"] < 1_800_000_001_000
        answer = await sub.claim()
        assert answer.headers["cache-control"] == "no-store"
        assert said(answer)["streams"] == [
            {
                "path": "s/1",
                "link_type": "glob",
                "acked_offset": ZERO,
                "tail_offset": end,
                "has_pending": True,
            }
        ]
        work = Work.of(said(answer))
        assert work.generation == 1
        busy = await sub.claim("w2")
        assert said(busy)["error"] == {
            "code": "ALREADY_CLAIMED",
            "current_holder": "w1",
            "generation": 1,
        }
        assert said(await sub.ack(work)) == OK
        assert await sub.acked() == {"s/1": end}
        assert code(await sub.claim()) == (409, "NO_PENDING_WORK")


async def test_what_comes_after_the_snapshot_wakes_again(autojump_clock: object) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        await wakes.next()
        work = await sub.claimed()
        end = await write(client, "s/1")
        assert said(await sub.ack(work)) == {"ok": True, "next_wake": True}
        event = await wakes.next()
        assert event["generation"] == 2
        again = await sub.claimed()
        assert again.wake != work.wake
        assert again.tails == {"s/1": end}
        assert said(await sub.ack(again)) == OK
        assert len(await wakes.all()) == 2


async def test_many_appends_are_one_wake(autojump_clock: object) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1", "s/2")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        async with trio.open_nursery() as nursery:
            for n in range(40):
                nursery.start_soon(write, client, f"s/{n % 2 + 1}")
        await Wakes(client).next()
        await trio.sleep(1000)
        assert len(await Wakes(client).all()) == 1
        assert (await sub.get())["pending"] == 2


async def test_a_claim_needs_no_event_and_one_that_finds_nothing_leaves_nothing(
    autojump_clock: object,
) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        assert said(await sub.ack(await sub.claimed())) == OK
        await write(client, "s/1")
        await wakes.next()
        await client.delete("s/1")  # what there was to do is gone, and the event is not
        assert code(await sub.claim()) == (409, "NO_PENDING_WORK")
        await make(client, "s/1", body=b"1")
        await wakes.next()
        assert set((await sub.claimed()).tails) == {"s/1"}


@pytest.mark.happens
async def test_a_lease_that_is_over_wakes_again_and_fences_who_had_it(
    autojump_clock: object,
) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*", lease_ttl_ms=10_000)
        await write(client, "s/1")
        await wakes.next()
        work = await sub.claimed()
        begun = trio.current_time()
        event = await wakes.next()
        assert event["generation"] == 2
        assert trio.current_time() >= begun + 10
        for answer in (
            await sub.ack(work),
            await sub.ack(work, done=False),
            await sub.release(work),
        ):
            assert (answer.status, said(answer)) == (409, FENCED)
        assert await sub.acked() == {"s/1": ZERO}
        assert (await sub.get())["holder"] is None
        assert (await sub.claimed("w2")).generation == 2


async def test_a_heartbeat_goes_on_with_the_lease(autojump_clock: object) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*", lease_ttl_ms=10_000)
        first = await write(client, "s/1")
        await write(client, "s/1")
        await wakes.next()
        work = await sub.claimed()
        for acks in ({}, {"s/1": first}, {}, {"s/1": ZERO}):
            await trio.sleep(9)
            answer = said(await sub.ack(work, acks, done=False))
            assert (answer["ok"], answer["next_wake"]) == (True, False)
        assert await sub.acked() == {"s/1": first}, "it never goes back"
        await trio.sleep(10)
        assert said(await sub.ack(work)) == FENCED
        assert (await wakes.next())["generation"] == 2


async def test_at_the_end_of_a_lease_another_worker_takes_over_at_once(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The task that looks after it may not have been there yet."""
    async with open_client() as (client, _):
        await make(client, "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*", lease_ttl_ms=1000)
        await write(client, "s/1")
        work = await sub.claimed()
        mock_clock.jump(0.999)
        assert code(await sub.claim("w2")) == (409, "ALREADY_CLAIMED")
        mock_clock.jump(0.001)
        again = await sub.claimed("w2")
        assert again.generation > work.generation
        assert said(await sub.ack(work)) == FENCED
        assert said(await sub.ack(again)) == OK


async def test_who_gives_back_work_has_it_written_down_again_after_a_pause(
    autojump_clock: object,
) -> None:
    """Without the pause a worker that only gives back would fill the disk with events."""
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub, wakes = Subscriber(client), Wakes(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        await wakes.next()
        pauses: list[float] = []
        for generation in range(1, 10):
            work = await sub.claimed()
            assert work.generation == generation
            if generation % 2:
                assert (await sub.release(work)).status == 204
            else:
                assert said(await sub.ack(work, {})) == {"ok": True, "next_wake": True}
            assert (await sub.get())["status"] == "active"
            begun = trio.current_time()
            await wakes.next()
            pauses.append(trio.current_time() - begun)
        for pause, wanted in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
            assert 0.8 * wanted <= pause <= 1.2 * wanted
        # Who acknowledges anything, and gives back then, has done something.
        assert said(await sub.ack(await sub.claimed(), done=False))["ok"]
        assert (await sub.get())["next_attempt_at"] is None


async def test_an_offset_that_is_not_there_yet_is_refused_with_all_beside_it() -> None:
    async with open_client() as (client, _):
        await make(client, "s/1", "s/2")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        for path in ("s/1", "s/2"):
            await write(client, path)
        work = await sub.claimed()
        beyond = token(2)
        answer = await sub.ack(work, {**work.tails, "s/2": beyond})
        assert code(answer) == (409, "INVALID_OFFSET")
        for bad in ("-1", "now", "1", "x"):
            assert code(await sub.ack(work, {"s/1": bad})) == (400, "INVALID_REQUEST")
        assert await sub.acked() == {"s/1": ZERO, "s/2": ZERO}
        # What is none of its streams is passed over: it may have been one.
        assert said(await sub.ack(work, {**work.tails, "t": beyond})) == OK


async def test_tokens_are_for_one_use_of_one_wake_and_end(autojump_clock: object) -> None:
    clock = SimClock()
    async with open_client(clock=clock) as (client, _):
        await make(client, "s/1")
        sub, other = Subscriber(client), Subscriber(client, "other")
        await sub.made(pattern="s/*", lease_ttl_ms=MAX_LEASE_MS)
        await other.made(pattern="s/*", lease_ttl_ms=MAX_LEASE_MS)
        await write(client, "s/1")
        work, theirs = await sub.claimed(), await other.claimed()
        said_by, _, mac = work.token.partition(".")
        forged = [
            "",
            "x",
            ".",
            work.token[:-1],
            work.token + "A",
            f"{said_by}.",
            f"{said_by}.{mac[::-1]}",
            f"{theirs.token.partition('.')[0]}.{mac}",
            theirs.token,
            "é.é",
            "A" * 5000,
        ]
        for token in forged:
            answer = await sub.ack(attrs.evolve(work, token=token))
            assert code(answer) == (401, "TOKEN_INVALID"), token
            assert answer.headers["www-authenticate"] == "Bearer"
        assert code(await sub.ack(work, how="callback")) == (401, "TOKEN_INVALID")
        answer = await client.ask("POST", "__ds/subscriptions/sub/ack", b"{}", JSON)
        assert code(answer) == (401, "TOKEN_INVALID")
        for wrong in (attrs.evolve(work, wake=theirs.wake), attrs.evolve(work, generation=2)):
            assert said(await sub.ack(wrong)) == FENCED
        new = said(await sub.ack(work, {}, done=False))["token"]
        clock.step(TOKEN_SECONDS - 1)
        new = said(await sub.ack(work, {}, done=False))["token"]
        clock.step(2)
        assert code(await sub.ack(work)) == (401, "TOKEN_INVALID")
        assert said(await sub.ack(attrs.evolve(work, token=new))) == OK


@pytest.mark.parametrize("body", [{}, {"worker": ""}, {"worker": " "}, {"worker": "x" * 257}, []])
async def test_a_claim_has_the_name_of_a_worker(body: Any) -> None:
    async with open_client() as (client, _):
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        assert code(await sub.ask("POST", "/claim", body)) == (400, "INVALID_REQUEST")


# ---- wake streams


@pytest.mark.happens
async def test_a_wake_stream_that_takes_no_event_is_said_and_tried_again(
    autojump_clock: object,
) -> None:
    async with open_client() as (client, _):
        await make(client, "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        await trio.sleep(1000)
        found = await sub.get()
        assert found["status"] == "failed"
        assert "the wake stream wake takes no event: there is no such stream" in found["error"]
        assert found["next_attempt_at"] is not None
        (numbers,) = streams_of(client).subscriptions()
        assert numbers.failures > 5
        # At once when it is made, and whoever claims meanwhile needs no event.
        begun = trio.current_time()
        await make(client, "wake")
        event = await Wakes(client).next()
        assert trio.current_time() - begun < 0.5
        assert event["generation"] == 1
        found = await sub.get()
        assert (found["status"], found["error"]) == ("active", None)


async def test_a_wake_stream_that_goes_takes_its_events_with_it(autojump_clock: object) -> None:
    async with open_client() as (client, _):
        await make(client, "wake", "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        await write(client, "s/1")
        assert (await Wakes(client).next())["generation"] == 1
        await client.delete("wake")
        await make(client, "wake")
        assert (await Wakes(client).next())["generation"] == 1
        assert said(await sub.ack(await sub.claimed())) == OK
        await client.close("wake")
        await write(client, "s/1")
        await trio.sleep(10)
        found = await sub.get()
        assert (found["status"], found["generation"]) == ("failed", 2)
        assert "closed" in found["error"]
        await client.delete("wake")
        await client.create("wake", kind="text/plain")
        await trio.sleep(100)
        assert "content type" in (await sub.get())["error"]
        work = await sub.claimed()
        assert (await sub.get())["status"] == "active"
        assert said(await sub.ack(work)) == OK


async def test_an_event_whose_outcome_is_unknown_is_there_once(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await make(client, "wake", "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*")
        fault = disk.fail("sync_data", 2, path_contains="/wake-")
        await write(client, "s/1")
        await Wakes(client).next()
        await trio.sleep(1000)
        assert fault.hits == 1
        assert [event["generation"] for event in await Wakes(client).all()] == [1]
        assert (await sub.get())["status"] == "active"


# ---- many


async def test_ten_thousand_streams_have_a_pattern(autojump_clock: object) -> None:
    """A wake speaks of some; and neither an append nor a restart looks at all."""
    count, disk, metadata = 10_000, SimDisk(), SimMetadata()
    async with open_client(disk, metadata=metadata) as (client, storage):
        await make(client, "wake")
        for n in range(count):
            await make(client, f"s/{n}")
        sub = Subscriber(client)
        before = metadata.op_count
        assert len((await sub.made(pattern="s/*"))["streams"]) == count
        assert metadata.op_count - before < count / TOGETHER + 20
        before = metadata.op_count
        await write(client, "s/17")
        await Wakes(client).next()
        assert metadata.op_count - before < 10
        for n in range(3 * SNAPSHOT_STREAMS):
            await write(client, f"s/{n * 7}")
        done: set[str] = set()
        for _ in range(4):
            work = await sub.claimed()
            assert len(work.streams) == SNAPSHOT_STREAMS
            assert not done & set(work.tails)
            done |= set(work.tails)
            await sub.ack(work)
        assert done == {f"s/{n * 7}" for n in range(3 * SNAPSHOT_STREAMS)} | {"s/17"}
        await write(client, "s/3")
        (found,) = streams_of(client).subscriptions()
        assert (found.links, found.pending, found.behind) == (count, 1, 1)
    async with open_client(disk, metadata=metadata.clone()) as (client, storage):
        await trio.sleep(5)
        assert len(storage.open_topics()) <= 2, "the one with something to do, and the wake stream"
        sub = Subscriber(client)
        assert set((await sub.claimed()).tails) == {"s/3"}
        assert len((await sub.get())["streams"]) == count


# ---- rights


@attrs.frozen
class Allowed:
    """Rights by action and the beginning of a path."""

    pairs: frozenset[tuple[str, str]]

    def may(self, action: str, path: str) -> bool:
        return any(action == a and (path + "/").startswith(p) for a, p in self.pairs)


EVERYBODY = {
    "all": {("read", ""), ("write", ""), ("admin", "")},
    "admin-alone": {("admin", "__ds/")},
    "reads-some": {("admin", "__ds/"), ("read", "s/"), ("write", "wake/")},
    "reads-one": {("admin", "__ds/"), ("read", "s/1/"), ("write", "wake/")},
    "worker": {("read", "__ds/subscriptions/sub/"), ("read", "s/")},
    "outside": {("read", "s/")},
    "blind": {("read", "__ds/subscriptions/sub/")},
}


def authenticate(scope: Any) -> Allowed | None:
    header = dict(scope["headers"]).get(b"authorization", b"").decode()
    pairs = EVERYBODY.get(header.removeprefix("Bearer "))
    return Allowed(frozenset(pairs)) if pairs is not None else None


async def test_who_makes_a_subscription_may_read_what_it_is_told() -> None:
    async with open_client(authenticate=authenticate, config=WEBHOOKS) as (client, _):
        every = {"authorization": "Bearer all"}
        for path in ("s/1", "s/2", "t/1"):
            assert (await client.create(path, b"", "application/json", **every)).status == 201
        hook = {"type": "webhook", "webhook": {"url": "http://localhost/"}}
        for who, body, status in (
            ("worker", {"pattern": "s/*"}, 403),
            ("admin-alone", {"pattern": "s/*"}, 403),
            ("admin-alone", {"streams": ["s/1"]}, 403),
            ("admin-alone", {**hook, "streams": ["s/1"]}, 403),
            ("reads-some", {"pattern": "*/1"}, 403),
            ("reads-some", {"pattern": "**"}, 403),
            ("reads-some", {"streams": ["s/1", "t/1"]}, 403),
            ("reads-some", {"pattern": "s/*", "wake_stream": "s/3"}, 403),
            ("reads-one", {"pattern": "s/*"}, 403),
            ("reads-one", {"pattern": "s/1/*"}, 201),
            ("reads-some", {"pattern": "s/*"}, 201),
            ("reads-some", {**hook, "pattern": "s/*"}, 201),
            ("all", {"pattern": "**"}, 201),
        ):
            sub = Subscriber(client, token=who)
            answer = await sub.put(**body)
            assert answer.status == status, (who, body)
            if status == 201:
                assert (await sub.ask("DELETE")).status == 204
            else:
                assert code(answer)[1] == "FORBIDDEN"
                assert b"t/1" not in answer.body or "streams" in body
        nobody = await Subscriber(client, token="nobody").put(pattern="s/*")
        assert nobody.status == 401


async def test_workers_need_to_read_what_they_are_told() -> None:
    async with open_client(authenticate=authenticate) as (client, _):
        every = {"authorization": "Bearer all"}
        sub = Subscriber(client, token="all")
        await sub.made(streams=["s/1", "t/1"])
        await client.create("s/1", b"1", "application/json", **every)
        for who, claim, get, other in (
            ("outside", 403, 403, 403),
            ("blind", 403, 200, 403),
            ("worker", 200, 200, 403),
        ):
            their = Subscriber(client, token=who)
            assert (await their.claim()).status == claim, who
            assert (await their.ask("GET")).status == get
            for method, rest in (("DELETE", ""), ("POST", "/streams"), ("DELETE", "/streams/s/1")):
                assert (await their.ask(method, rest, {"streams": []})).status == other
        assert list(await Subscriber(client, token="worker").acked()) == ["s/1"]
        assert list(await Subscriber(client, token="blind").acked()) == []
        assert list(await sub.acked()) == ["s/1", "t/1"]


async def test_nobody_is_asked_who_they_are_where_a_token_of_a_wake_is_or_a_public_key() -> None:
    asked: list[str] = []

    def remember(scope: Any) -> Allowed | None:
        asked.append(scope["path"])
        return authenticate(scope)

    async with open_client(authenticate=remember) as (client, _):
        every = {"authorization": "Bearer all"}
        sub = Subscriber(client, token="all")
        await sub.made(pattern="s/*")
        await client.create("s/1", b"1", "application/json", **every)
        asked.clear()
        work = await sub.claimed()
        assert len(asked) == 1
        assert said(await sub.ack(work, {}, done=False))["ok"]
        assert (await sub.release(work)).status == 204
        assert (await client.ask("GET", "__ds/jwks.json")).status == 200
        assert (await client.ask("GET", "%5F_ds/jwks.json")).status == 200
        assert len(asked) == 1
        # What only looks like one of them.
        for path in ("x/jwks.json", "a/subscriptions/b/ack", "__ds/subscriptions/sub/ack/x"):
            assert (await client.ask("POST", path, b"x")).status == 401
        assert len(asked) == 4


# ---- starting again


async def _idle(client: Client, sub: Subscriber) -> Work | None:
    await Wakes(client).next()
    assert said(await sub.ack(await sub.claimed())) == OK
    return None


async def _woken(client: Client, sub: Subscriber) -> Work | None:
    await Wakes(client).next()
    return None


async def _held(client: Client, sub: Subscriber) -> Work | None:
    return await sub.claimed()


async def _released(client: Client, sub: Subscriber) -> Work | None:
    for _ in range(6):
        assert (await sub.release(await sub.claimed())).status == 204
    return None


async def _failed(client: Client, sub: Subscriber) -> Work | None:
    await client.delete("wake")
    await trio.sleep(1000)
    return None


async def _deleted(client: Client, sub: Subscriber) -> Work | None:
    work = await sub.claimed()
    assert (await sub.ask("DELETE")).status == 204
    return work


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("reach", [_idle, _woken, _held, _released, _failed, _deleted])
async def test_a_restart_goes_on_where_it_was(
    reach: Any, orderly: bool, autojump_clock: object
) -> None:
    disk, clock = SimDisk(), SimClock()
    async with open_client(disk, clock=clock) as (client, _):
        await make(client, "wake", "s/1")
        sub = Subscriber(client)
        await sub.made(pattern="s/*", lease_ttl_ms=60_000)
        end = await write(client, "s/1")
        work = await reach(client, sub)
        before = None if reach is _deleted else await sub.get()
        left = disk.crash()
    disk = disk if orderly else left
    async with open_client(disk, clock=clock) as (client, storage):
        sub, wakes, begun = Subscriber(client), Wakes(client), trio.current_time()
        if before is None:
            assert (await sub.ask("GET")).status == 404
            assert code(await sub.ack(work)) == (404, "SUBSCRIPTION_NOT_FOUND")
            await until_clean(storage)
            return
        await trio.sleep(0.1)  # after a crash it is looked up what there is to do
        assert await sub.get() == before
        if reach is _idle:
            assert code(await sub.claim()) == (409, "NO_PENDING_WORK")
            end = await write(client, "s/1")
            assert (await wakes.next())["generation"] == 1
            assert (await wakes.next())["generation"] == 2
        elif reach is _woken:
            await trio.sleep(1000)
            assert [e["generation"] for e in await wakes.all()] == [1], "it is not said again"
        elif reach is _held:
            assert code(await sub.claim("w2")) == (409, "ALREADY_CLAIMED")
            await trio.sleep(59)
            assert said(await sub.ack(work, {}, done=False))["ok"], "it has its whole time"
            await trio.sleep(61)
            assert said(await sub.ack(work)) == FENCED
            assert (await wakes.next())["generation"] == 2
        elif reach is _released:
            assert before["next_attempt_at"] is not None
            while (await wakes.next())["generation"] < 7:
                pass
            assert 20 < trio.current_time() - begun < 32 * 1.2
        elif reach is _failed:
            assert before["status"] == "failed"
            await make(client, "wake")
            assert (await wakes.next())["generation"] == 1
        assert (await sub.claimed("w3")).tails == {"s/1": end}


@pytest.mark.parametrize("by", [-100_000.0, 100_000.0])
async def test_a_wall_clock_that_is_wrong_ends_no_lease_and_no_retries(
    by: float, autojump_clock: object
) -> None:
    disk, clock = SimDisk(), SimClock()
    async with open_client(disk, clock=clock) as (client, _):
        await make(client, "wake", "s/1", "t/1")
        sub, other = Subscriber(client), Subscriber(client, "other")
        await sub.made(pattern="s/*", lease_ttl_ms=60_000)
        await other.made(pattern="t/*")
        await write(client, "s/1")
        await write(client, "t/1")
        await sub.claimed()
        await other.release(await other.claimed())
    clock.step(by)
    async with open_client(disk, clock=clock) as (client, _):
        sub = Subscriber(client)
        await trio.sleep(59)
        assert code(await sub.claim("w2")) == (409, "ALREADY_CLAIMED")
        await trio.sleep(14)  # the longest pause is 72 s
        events = [(e["subscription_id"], e["generation"]) for e in await Wakes(client).all()]
        assert ("other", 2) in events


async def test_streams_that_nobody_looked_at_are_linked_at_once_and_where_they_ended(
    autojump_clock: object,
) -> None:
    """And what is written to them before they are looked at is there to be done."""
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        for n in range(6):
            await make(client, f"s/{n}", body=b"[1,2]")
    opened: list[str] = []
    async with open_client(disk) as (client, storage):
        sub = Subscriber(client)
        made = await sub.made(pattern="s/*")
        assert {s["acked_offset"] for s in made["streams"]} == {"now"}
        opened += storage.open_topics()
        end = await write(client, "s/5")
        assert (await sub.claimed()).tails == {"s/5": end}
        other = disk.crash()
        await trio.sleep(1)
        two = token(2)
        assert await sub.acked() == {f"s/{n}": two for n in range(6)}
    assert not opened
    async with open_client(other) as (client, _):
        await trio.sleep(31)
        sub = Subscriber(client)
        assert await sub.acked() == {f"s/{n}": two for n in range(6)}
        assert (await sub.claimed()).tails == {"s/5": end}


async def test_after_an_orderly_end_no_log_is_opened(autojump_clock: object) -> None:
    disk = SimDisk()
    async with open_client(disk) as (client, _):
        await make(client, "wake")
        for n in range(6):
            await make(client, f"s/{n}", body=b"1")
        await Subscriber(client).made(pattern="s/*")
        await write(client, "s/1")
        await Wakes(client).next()
        other = disk.crash()
    async with open_client(disk) as (_, storage):
        await trio.sleep(10)
        assert {t.partition("-")[0] for t in storage.open_topics()} == {
            "/streams/s_1",
            "/streams/wake",
        }
    for again in (other, disk):
        async with open_client(again) as (_, storage):
            other = again.crash()
        async with open_client(other) as (_, storage):
            await trio.sleep(10)
            assert len(storage.open_topics()) == 7, "what it said is true once"


async def test_nothing_is_written_after_the_end() -> None:
    async with open_client() as (client, _):
        await make(client, "s/1")
        await Subscriber(client).made(pattern="s/*")
        app = streams_of(client)
    assert (await Client(app).append("s/1", b"1", "application/json")).status == 503


# ---- figures


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        (["a/b"], "a/b"),
        (["a/*"], "a/*"),
        (["a/b", "a/c"], "a/**"),
        (["a/b", "a"], "a/**"),
        (["a/*", "a/b/c"], "a/**"),
        (["a", "b"], "**"),
        (["*", "a"], "**"),
        (["ab/c", "a/c"], "**"),
    ],
)
def test_one_pattern_covers_many(paths: list[str], pattern: str) -> None:
    assert covering(paths) == pattern
    assert all(matches(pattern, path) for path in paths)


async def test_figures_are_those_of_the_moment(autojump_clock: object) -> None:
    async with open_client(clock=SimClock(1_800_000_000.0)) as (client, _):
        await make(client, "wake", "s/1", "s/2")
        one, two = Subscriber(client, "b%20c"), Subscriber(client, "a")
        await one.made(pattern="s/*", description="both")
        await two.made(streams=["s/2", "s/x/y"])
        await write(client, "s/1", b"[1,2,3]")
        await write(client, "s/2")
        await one.claimed("worker")
        first, second = streams_of(client).subscriptions()
        assert second == SubscriptionStatistics(
            id="b c",
            kind="pull-wake",
            streams="s/*",
            description="both",
            status="active",
            phase="held",
            links=2,
            pending=2,
            behind=4,
            generation=1,
            holder="worker",
            next_attempt_at=None,
            failures=0,
            error=None,
            path="__ds/subscriptions/b%20c",
        )
        assert (first.id, first.streams, first.links, first.behind) == ("a", "s/**", 1, 1)
