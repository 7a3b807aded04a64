"""Webhooks: where they may go, what they carry, and what becomes of what is answered.

The receivers are servers on sockets of this machine. Time is stopped, and moved on by the tests.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_client import ZERO, Client
from hypothesis import given
from hypothesis import strategies as st
from subscribers import (
    OK,
    WEBHOOKS,
    Subscriber,
    Work,
    code,
    make,
    open_client,
    said,
    streams_of,
    write,
)
from webhook_receiver import DONE, Hook, Receiver, answer, open_receiver

from danube_trio._core.documents import compact
from danube_trio.http import HttpConfig
from danube_trio.http._keys import from_base64, kid_of, new_key, to_base64
from danube_trio.http._offsets import token
from danube_trio.http._targets import Allowed, check_addresses, is_public, target_of
from danube_trio.http._waking import DELIVERIES
from danube_trio.http._webhooks import ANSWER_BYTES, request_to
from danube_trio.testing import SimClock, SimDisk

Clock = trio.testing.MockClock

# ---- where they may go

ALLOWED = (
    "https://worker.example/hooks/*",
    "https://*.tenants.example:*/in",
    "https://93.184.216.34",
    "https://[2606:2800:220:1::1]/*",
    "http://localhost:8000/*",
    "http://127.0.0.1:*",
    "https://[::1]:8443/*",
    "https://everywhere.example:*",
)


@pytest.mark.parametrize(
    "url",
    [
        "https://worker.example/hooks/a",
        "https://worker.example:443/hooks/a?b=c&d=%20",
        "HTTPS://Worker.Example/hooks/",
        "https://a.tenants.example/in",
        "https://a.b.tenants.example:8443/in",
        "https://93.184.216.34/anything",
        "https://93.184.216.34",
        "https://[2606:2800:220:1::1]/x",
        "http://localhost:8000/x",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1",
        "https://[::1]:8443/",
        "https://everywhere.example:65535/@:!$&'()*+,;=~",
    ],
)
def test_a_url_that_a_pattern_names_is_taken(url: str) -> None:
    target_of(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "worker.example/hooks/a",
        "ftp://worker.example/hooks/a",
        "http://worker.example/hooks/a",
        "https://worker.example/other",
        "https://worker.example/hooks",
        "https://worker.example:8443/hooks/a",
        "https://worker.example./hooks/a",
        "https://worker.example/hooks/../admin",
        "https://worker.example/hooks/%2e%2E/admin",
        "https://worker.example/hooks/./a",
        "https://worker.example/hooks/a#b",
        "https://worker.example/hooks/a b",
        "https://worker.example/hooks/\\a",
        "https://worker.example/hooks/\r\nhost: x",
        "https://worker.example/hooks/é",
        "https://wörker.example/hooks/a",
        "https://user@worker.example/hooks/a",
        "https://worker.example@evil.example/hooks/a",
        "https://evil.example/https://worker.example/hooks/a",
        "https://worker.example.evil.example/hooks/a",
        "https://evil.example#.tenants.example/in",
        "https://evil.example/.tenants.example/in",
        "https://evil.example?.tenants.example/in",
        "https://.tenants.example/in",
        "https://a.tenants.example:70000/in",
        "https://a.tenants.example:0/in",
        "https://a.tenants.example:/in",
        "https://a.tenants.example:08443/in",
        "https://localhost.tenants.example.localhost/in",
        "https://worker.example/" + "x" * 2048,
        "http://10.0.0.1/hook",
        "http://localhost/x",
        "http://localhost:8001/x",
        "https://localhost:8000/x",
        "http://127.0.0.2:1/x",
        "http://127.1:1/x",
        "http://2130706433/x",
        "http://0x7f000001/x",
        "http://0177.0.0.1/x",
        "http://[::1]:8443/",
        "http://[::ffff:127.0.0.1]/x",
        "https://[fe80::1%25eth0]/x",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        target_of(url, ALLOWED)


ANYWHERE = ("https://*:*", "https://*.*:*", "https://*:*/*")


@pytest.mark.parametrize(
    "url",
    [
        "http://public.example/",
        "https://localhost/",
        "https://a.localhost/",
        "https://printer.local/",
        "https://metadata.google.internal/",
        "https://127.0.0.1/",
        "https://127.255.255.254/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::]/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[ff02::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b:1::1]/",
        "https://[2002:a00:1::]/",
        "https://[2001:0:a00:1::1]/",
        "https://3232235777/",
        "https://0xa000001/",
        "https://10.1/",
        "https://1.2.3.4.5/",
    ],
)
def test_whatever_the_patterns_say_no_webhook_goes_inside(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        target_of(url, ANYWHERE)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("64:ff9b::5db8:d822", True),
        ("2002:5db8:d822::1", True),
        ("::ffff:93.184.216.34", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("239.1.1.1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_each_address_of_a_name_is_looked_at() -> None:
    outside = target_of("https://public.example/", ANYWHERE)
    check_addresses(outside, ["93.184.216.34", "2606:2800:220:1::1"])
    for inside in ("127.0.0.1", "10.0.0.1", "fe80::1%eth0", "::1"):
        with pytest.raises(ValueError, match="public internet"):
            check_addresses(outside, ["93.184.216.34", inside])
    here = target_of("http://localhost:8000/", ALLOWED)
    check_addresses(here, ["127.0.0.1", "::1"])
    with pytest.raises(ValueError, match="this machine"):
        check_addresses(here, ["127.0.0.1", "93.184.216.34"])


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "*",
        "worker.example",
        "ftp://a/",
        "http://worker.example/*",
        "http://*",
        "http://10.0.0.1",
        "http://127.0.0.*",
        "https://a@b/",
        "https://a/ b",
        "https://a:x/",
        "https:///",
    ],
)
def test_a_bad_pattern_is_no_setting(pattern: str) -> None:
    with pytest.raises(ValueError, match="webhooks"):
        HttpConfig(webhooks=(pattern,))


def test_a_star_is_not_more_than_its_part() -> None:
    for pattern in ("https://*.example", "https://*.example:*/*"):
        assert Allowed.of(pattern).has(target_of("https://a.example/x", ANYWHERE))
        assert not Allowed.of(pattern).has(target_of("https://evil.test/.example", ANYWHERE))
        assert not Allowed.of(pattern).has(target_of("https://evil.test/?a.example:1/", ANYWHERE))


async def test_none_is_allowed_unless_the_settings_say_so() -> None:
    async with open_client() as (client, _):
        hook = {"type": "webhook", "pattern": "a", "webhook": {"url": "https://worker.example/"}}
        assert code(await Subscriber(client).put(**hook)) == (400, "WEBHOOK_URL_REJECTED")


@pytest.mark.parametrize("package", ["httpx2", "cryptography.hazmat.primitives.asymmetric"])
async def test_without_the_packages_it_is_501_and_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    async with open_client(config=WEBHOOKS) as (client, _):
        sub = Subscriber(client)
        answer = await sub.put(type="webhook", pattern="a", webhook={"url": "http://localhost/"})
        assert code(answer) == (501, "NOT_AVAILABLE")
        assert "danube-trio[webhooks]" in said(answer)["error"]["message"]
        await sub.made(pattern="a")


# ---- signatures


async def published(client: Client) -> dict[str, Ed25519PublicKey]:
    found = await client.ask("GET", "__ds/jwks.json")
    assert found.headers["content-type"] == "application/jwk-set+json"
    assert found.headers["cache-control"] == "public, max-age=300"
    keys: dict[str, Ed25519PublicKey] = {}
    for jwk in said(found)["keys"]:
        assert {k: jwk[k] for k in ("kty", "crv", "use", "alg")} == {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
        }
        assert set(jwk) == {"kty", "crv", "use", "alg", "kid", "x"}
        keys[jwk["kid"]] = Ed25519PublicKey.from_public_bytes(from_base64(jwk["x"]))
    return keys


async def verified(client: Client, hook: Hook) -> int:
    """When it was signed, and that it was."""
    parts = dict(part.split("=", 1) for part in hook.headers["webhook-signature"].split(","))
    key = (await published(client))[parts["kid"]]
    key.verify(from_base64(parts["ed25519"]), parts["t"].encode() + b"." + hook.body)
    with pytest.raises(InvalidSignature):
        key.verify(from_base64(parts["ed25519"]), parts["t"].encode() + b"." + hook.body + b" ")
    return int(parts["t"])


def test_the_name_of_a_key_is_its_thumbprint() -> None:
    """The example of RFC 8037, A.3."""
    public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert kid_of(public) == "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("text", ["A", "AB=C", "+/", "AA==", "é"])
def test_what_is_no_base64url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_base64(text)


# ---- told


@asynccontextmanager
async def told(
    disk: SimDisk | None = None, tls: ssl.SSLContext | None = None, **more: Any
) -> AsyncGenerator[tuple[Client, Receiver]]:
    more = {"config": WEBHOOKS, "clock": SimClock(1_800_000_000.0), **more}
    async with open_receiver(tls) as receiver, open_client(disk, **more) as (client, _):
        yield client, receiver


def hook_to(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "webhook": {"url": receiver.url()}, "pattern": "s/*", **more}


async def settled(sub: Subscriber, **wanted: Any) -> dict[str, Any]:
    """Wait until that is said of it."""
    found = await sub.get()
    while {name: found[name] for name in wanted} != wanted:
        await trio.lowlevel.checkpoint()
        found = await sub.get()
    return found


async def test_a_webhook_says_what_there_is_to_do_and_is_signed(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        assert await published(client) == {}
        sub = Subscriber(client, "sub%20one")
        made = await sub.made(**hook_to(receiver))
        base = "http://test/"
        kid = made["webhook"]["signing"]["kid"]
        assert made["webhook"] == {
            "url": receiver.url(),
            "signing": {"alg": "ed25519", "kid": kid, "jwks_url": f"{base}__ds/jwks.json"},
        }
        receiver.answers(DONE)
        await make(client, "s/1", body=b"[1,2]")
        hook = await receiver.next()
        assert hook.target == "/hook"
        assert hook.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert hook.headers["content-type"] == "application/json"
        assert await verified(client, hook) == 1_800_000_000
        two = token(2)
        body = hook.said
        assert body.pop("callback_token")
        assert body.pop("wake_id").startswith("w_")
        assert body == {
            "subscription_id": "sub one",
            "generation": 1,
            "streams": [
                {
                    "path": "s/1",
                    "link_type": "glob",
                    "acked_offset": ZERO,
                    "tail_offset": two,
                    "has_pending": True,
                }
            ],
            "callback_url": f"{base}__ds/subscriptions/sub%20one/callback",
        }
        found = await settled(sub, pending=0)
        assert found["status"] == "active"
        assert await sub.acked() == {"s/1": two}


async def test_the_urls_are_of_where_it_was_asked_for_last(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        receiver.answers(DONE)
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver))
        body = json.dumps(hook_to(receiver)).encode()
        headers = {"host": "streams.example:8443"}
        again = await client.ask("PUT", "__ds/subscriptions/sub", body, headers)
        assert again.status == 200
        assert said(again)["webhook"]["signing"]["jwks_url"].startswith(
            "http://streams.example:8443/"
        )
        await make(client, "s/1", body=b"1")
        assert (
            (await receiver.next())
            .said["callback_url"]
            .startswith("http://streams.example:8443/__ds/")
        )


async def test_a_callback_acknowledges_and_ends_the_wake(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        end = await write(client, "s/1")
        assert code(await sub.claim()) == (400, "INVALID_REQUEST")
        assert code(await sub.ack(work, how="ack")) == (401, "TOKEN_INVALID")
        assert code(await sub.release(work)) == (401, "TOKEN_INVALID")
        assert said(await sub.ack(work, done=False, how="callback"))["ok"]
        assert said(await sub.ack(work, how="callback")) == {"ok": True, "next_wake": True}
        assert code(await sub.ack(work, how="callback")) == (409, "FENCED")
        again = Work.of((await receiver.next()).said)
        assert (again.generation, again.tails) == (2, {"s/1": end})
        assert said(await sub.ack(again, how="callback")) == OK


async def test_a_receiver_may_call_back_before_it_answers(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)
        release = trio.Event()

        async def call_back(hook: Hook) -> bytes:
            found = said(await sub.ack(Work.of(hook.said), how="callback"))
            assert found["ok"]
            if hook.said["generation"] == 1:
                await release.wait()
            return answer(b'{"done":false}')

        receiver.reply = call_back
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        await receiver.next()
        await settled(sub, pending=0)
        await write(client, "s/1")
        await trio.testing.wait_all_tasks_blocked()
        assert receiver.nothing(), "one at a time"
        release.set()
        assert (await receiver.next()).said["generation"] == 2
        found = await settled(sub, pending=0, generation=2)
        assert found["status"] == "active"


async def test_an_answer_that_never_comes_is_not_waited_for_when_the_work_is_done(
    mock_clock: Clock,
) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)

        async def call_back(hook: Hook) -> bytes:
            assert said(await sub.ack(Work.of(hook.said), how="callback"))["ok"]
            if hook.said["generation"] == 1:
                await trio.sleep_forever()
            return DONE

        receiver.reply = call_back
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        await receiver.next()
        await settled(sub, pending=0)
        await write(client, "s/1")
        mock_clock.jump(2.1)
        assert (await receiver.next()).said["generation"] == 2
        assert (await settled(sub, pending=0, generation=2))["status"] == "active"


async def test_a_receiver_that_says_nothing_more_loses_its_lease(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver, lease_ttl_ms=5000))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(4)
        assert said(await sub.ack(work, {}, done=False, how="callback"))["ok"]
        mock_clock.jump(4)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await sub.get())["generation"] == 1
        mock_clock.jump(1.01)
        assert code(await sub.ack(work, how="callback")) == (409, "FENCED")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(1.21)  # it came to nothing: a pause
        assert (await receiver.next()).said["generation"] == 2


FAILURES = {
    "500": answer(b'{"done":true}', "500 Oops"),
    "404": answer(status="404 Not Found"),
    "redirect": b"HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n",
    "moved": b"HTTP/1.1 308 Moved\r\nlocation: https://10.0.0.1/\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.happens
@pytest.mark.parametrize("how", FAILURES)
async def test_what_failed_is_tried_again_with_growing_pauses(how: str, mock_clock: Clock) -> None:
    clock = SimClock(1_800_000_000.0)
    async with told(clock=clock) as (client, receiver):
        receiver.answers(FAILURES[how])
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        for generation, pause in enumerate([1, 2, 4, 8, 16, 32, 60, 60], 1):
            hook = await receiver.next()
            assert hook.target == "/hook", "no redirect is followed"
            assert hook.said["generation"] == generation
            work = Work.of(hook.said)
            found = await settled(sub, status="failed", generation=generation, holder=None)
            while found["next_attempt_at"] is None:
                await trio.lowlevel.checkpoint()
                found = await sub.get()
            at = datetime.datetime.fromisoformat(found["next_attempt_at"]).timestamp()
            assert 0.8 * pause - 0.001 <= at - clock() <= 1.2 * pause
            assert "answered with" in found["error"]
            assert code(await sub.ack(work, how="callback")) == (409, "FENCED")
            mock_clock.jump(0.8 * pause - 0.01)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert receiver.nothing()
            mock_clock.jump(0.4 * pause + 0.02)
        receiver.answers(DONE)
        await receiver.next()
        mock_clock.jump(80)
        found = await settled(sub, pending=0)
        assert (found["status"], found["error"], found["next_attempt_at"]) == ("active", None, None)
        assert receiver.connections == 9 or receiver.connections == 10


@pytest.mark.happens
async def test_who_does_not_answer_in_time_has_its_lease_all_the_same(mock_clock: Clock) -> None:
    """It may be working. Nobody else gets the work until it cannot believe that it has it."""
    async with told() as (client, receiver):
        sub = Subscriber(client)

        async def never(_: Hook) -> None:
            await trio.sleep_forever()

        receiver.reply = never
        await sub.made(**hook_to(receiver, lease_ttl_ms=30_000))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        mock_clock.jump(10.01)
        found = await settled(sub, status="failed")
        assert found["error"] == "it was not answered in time"
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert receiver.nothing()
        assert said(await sub.ack(work, how="callback")) == OK
        assert (await sub.get())["status"] == "active"
        await write(client, "s/1")
        await receiver.next()
        mock_clock.jump(10.01)
        await settled(sub, status="failed")
        mock_clock.jump(20)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await receiver.next()).said["generation"] == 3


@pytest.mark.parametrize(
    "data", [None, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{", b"x\r\n\r\n"]
)
async def test_an_answer_that_breaks_off_may_be_one(data: bytes | None, mock_clock: Clock) -> None:
    async with told() as (client, receiver):

        async def reply(_: Hook) -> bytes | None:
            return data

        receiver.reply = reply
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        found = await settled(sub, status="failed")
        assert "did not answer" in found["error"]
        assert said(await sub.ack(work, how="callback")) == OK


async def test_a_lease_that_ends_before_the_answer_ends_the_request(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)

        async def never(_: Hook) -> None:
            await trio.sleep_forever()

        receiver.reply = never
        await sub.made(**hook_to(receiver, lease_ttl_ms=1000))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        mock_clock.jump(1.01)
        await settled(sub, status="failed")
        assert code(await sub.ack(work, how="callback")) == (409, "FENCED")
        mock_clock.jump(1.3)
        assert (await receiver.next()).said["generation"] == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"[]",
        b"1",
        b"null",
        b"\xff",
        b"[" * 1000,
        b'{"done":1}',
        b'{"done":"true"}',
        b'{"done":false}',
        b'{"done":true}' + b" " * ANSWER_BYTES,
    ],
)
async def test_only_one_answer_means_that_all_is_done(body: bytes, mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        receiver.answers(answer(body))
        sub = Subscriber(client)
        await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        work = Work.of((await receiver.next()).said)
        await trio.testing.wait_all_tasks_blocked(0.01)
        found = await sub.get()
        assert (found["status"], found["pending"]) == ("active", 1)
        assert said(await sub.ack(work, how="callback")) == OK


async def test_an_endless_answer_is_cut(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sent = 0

        async def serve(stream: trio.abc.Stream) -> None:
            nonlocal sent
            await stream.receive_some()
            try:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    await stream.send_all(b"x" * 4096)
                    sent += 4096
            except trio.BrokenResourceError:
                return

        async with trio.open_nursery() as nursery:
            (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            sub = Subscriber(client)
            hook = hook_to(receiver) | {"webhook": {"url": f"http://127.0.0.1:{port}/"}}
            await sub.made(**hook)
            await make(client, "s/1", body=b"1")
            await settled(sub, generation=1)
            while not sent:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await sub.get())["status"] == "active"
            nursery.cancel_scope.cancel()


async def test_nobody_there_is_a_failure_that_is_known(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        sub = Subscriber(client)
        with trio.socket.socket() as probe:
            await probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hook = hook_to(receiver) | {"webhook": {"url": f"http://127.0.0.1:{port}/"}}
        await sub.made(**hook)
        await make(client, "s/1", body=b"1")
        found = await settled(sub, status="failed")
        assert "no connection" in found["error"]
        (numbers,) = streams_of(client).subscriptions()
        assert (numbers.phase, numbers.failures, numbers.generation) == ("idle", 1, 1)


async def test_receivers_that_are_slow_are_so_many_at_most(mock_clock: Clock) -> None:
    async with told() as (client, receiver):
        go = trio.Event()

        async def wait(_: Hook) -> bytes:
            await go.wait()
            return DONE

        receiver.reply = wait
        count = DELIVERIES + 10
        subs = [Subscriber(client, f"sub{n}") for n in range(count)]
        for sub in subs:
            await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        for _ in range(DELIVERIES):
            await receiver.next()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert receiver.nothing()
        waiting = [s for s in streams_of(client).subscriptions() if not s.generation]
        assert len(waiting) == 10, "no lease begins before its time"
        go.set()
        for sub in subs:
            await settled(sub, pending=0)
        assert receiver.most == DELIVERIES


# ---- names


class Resolver(trio.abc.HostnameResolver):
    """Gives the addresses of a name that a test wants, and remembers who asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = [*answers]
        self.asked: list[str] = []

    async def getaddrinfo(  # type: ignore[override]
        self, host: bytes, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        self.asked.append(host.decode())
        answers = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        kind = trio.socket.SOCK_STREAM
        return [(trio.socket.AF_INET, kind, 6, "", (each, int(port))) for each in answers]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.happens
@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1"]],
        [["93.184.216.34", "10.0.0.1"]],
        [["169.254.169.254"]],
    ],
)
async def test_a_name_that_leads_inside_is_not_connected_to(
    answers: list[list[str]], mock_clock: Clock
) -> None:
    resolver = Resolver(*answers)
    trio.socket.set_custom_hostname_resolver(resolver)
    config = HttpConfig(webhooks=("https://worker.example:*",))
    async with told(config=config) as (client, receiver):
        url = f"https://worker.example:{receiver.port}/hook"
        sub = Subscriber(client)
        await sub.made(type="webhook", pattern="s/*", webhook={"url": url})
        assert not resolver.asked
        await make(client, "s/1", body=b"1")
        found = await settled(sub, status="failed")
        assert found["error"] == (
            "it was not sent: an address of its host is not one of the public internet"
        )
        assert resolver.asked == ["worker.example"]
        assert not receiver.connections


async def test_a_name_is_looked_up_once_for_the_check_and_the_connection(
    mock_clock: Clock,
) -> None:
    """A second look could say something else."""
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    trio.socket.set_custom_hostname_resolver(resolver)
    async with told() as (client, receiver):
        receiver.answers(DONE)
        url = receiver.url(host="localhost")
        sub = Subscriber(client)
        await sub.made(type="webhook", pattern="s/*", webhook={"url": url})
        await make(client, "s/1", body=b"1")
        hook = await receiver.next()
        assert hook.headers["host"] == f"localhost:{receiver.port}"
        await settled(sub, pending=0)
        assert resolver.asked == ["localhost"]
        await write(client, "s/1")
        found = await settled(sub, status="failed")
        assert "not one of this machine" in found["error"]
        assert receiver.connections == 1


async def test_settings_that_were_changed_hold_for_what_was_made_before(
    mock_clock: Clock,
) -> None:
    disk = SimDisk()
    async with told(disk) as (client, receiver):
        await Subscriber(client).made(**hook_to(receiver))
        await make(client, "s/1")
    async with told(disk, config=HttpConfig()) as (client, _):
        await write(client, "s/1")
        found = await settled(Subscriber(client), status="failed")
        assert "no pattern" in found["error"]
        assert not receiver.connections


# ---- TLS


def certificate(path: Path, name: str) -> ssl.SSLContext:
    """A server's context with a certificate of its own, which is its authority, too: in `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(pem)
    private = path.with_suffix(".key")
    private.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(private)
    return context


@pytest.mark.parametrize("name", ["localhost", "other.example"])
async def test_the_certificate_is_that_of_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: Clock
) -> None:
    context = certificate(tmp_path / "ca.pem", name)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with told(tls=context) as (client, receiver):
        receiver.answers(DONE)
        sub = Subscriber(client)
        url = receiver.url(host="localhost", scheme="https")
        await sub.made(type="webhook", pattern="s/*", webhook={"url": url})
        await make(client, "s/1", body=b"1")
        if name == "localhost":
            await verified(client, await receiver.next())
            await settled(sub, pending=0)
        else:
            found = await settled(sub, status="failed")
            assert "certificate" in found["error"].lower()
            assert receiver.nothing()


# ---- keys


async def test_keys_stay_and_old_ones_are_published_as_long_as_they_are_listed(
    mock_clock: Clock,
) -> None:
    disk = SimDisk()
    async with told(disk) as (client, receiver):
        await Subscriber(client).made(**hook_to(receiver))
        (first,) = await published(client)
    async with open_client(disk, config=WEBHOOKS) as (client, storage):
        assert list(await published(client)) == [first]
        document = await storage.metadata.get("/danube/http/subscriptions/keys")
        assert document is not None
        old = json.loads(document.value)["keys"][0]
        assert to_base64(from_base64(old["private"])) == old["private"]
        keys = [json.loads(compact(new_key(1.0))), old, json.loads(compact(new_key(2.0)))]
        value = json.dumps({"format": 1, "keys": keys}).encode()
        await storage.metadata.put("/danube/http/subscriptions/keys", value)
    async with told(disk) as (client, receiver):
        receiver.answers(DONE)
        assert list(await published(client)) == [key["kid"] for key in keys]
        await Subscriber(client, "new").made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        hook = await receiver.next()
        assert f"kid={keys[-1]['kid']}," in hook.headers["webhook-signature"]
        await verified(client, hook)


async def test_no_secret_is_shown_or_logged(
    mock_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    caplog.set_level("DEBUG", "danube_trio")
    async with told(disk) as (client, receiver):
        sub = Subscriber(client)
        receiver.answers(FAILURES["500"])
        made = await sub.made(**hook_to(receiver))
        await make(client, "s/1", body=b"1")
        hook = await receiver.next()
        found = await settled(sub, status="failed")
        shown = json.dumps([made, found]) + repr(streams_of(client).subscriptions())
        shown += caplog.text + str((await client.ask("GET", "__ds/jwks.json")).body)
    async with open_client(disk) as (_, storage):
        for name in ("keys", "secret"):
            entry = await storage.metadata.get(f"/danube/http/subscriptions/{name}")
            assert entry is not None
            document = json.loads(entry.value)
            private = document["key"] if name == "secret" else document["keys"][0]["private"]
            assert private not in shown
            assert base64.b64encode(from_base64(private)).decode() not in shown
    assert hook.said["callback_token"] not in shown


URLS = st.text(st.sampled_from("aZ09-._~:/?#[]@!$&'()*+,;=%2e \\^`{|}\"<>é\0\r\n"), max_size=40)


@given(st.sampled_from(["https://", "https://a", "https://a.b/", "https://[2606:"]), URLS)
def test_whatever_url_is_taken_can_be_sent_to(begin: str, rest: str) -> None:
    """And goes where it says, to the address that was looked up."""
    try:
        target = target_of(begin + rest, ANYWHERE)
    except ValueError:
        return
    request = request_to(httpx2, target, "93.184.216.34", b"{}", "t=1")
    assert request.url.host == "93.184.216.34"
    assert request.url.port in (target.port, None)
    assert request.headers["host"].startswith(target.authority)
    assert b"\r" not in request.url.raw_path and b" " not in request.url.raw_path


@pytest.mark.parametrize(
    "host", ["a" * 63, "xn--a", "a--b", "xn--zzzzzz-9999999", "a.b.c", "1a", "xn--n3h.example"]
)
async def test_a_name_that_is_none_fails_and_nothing_else(host: str, mock_clock: Clock) -> None:
    resolver = Resolver(["10.0.0.1"])
    trio.socket.set_custom_hostname_resolver(resolver)
    config = HttpConfig(webhooks=("https://*",))
    async with told(config=config) as (client, _):
        sub = Subscriber(client)
        await sub.made(type="webhook", pattern="s/*", webhook={"url": f"https://{host}/"})
        await make(client, "s/1", body=b"1")
        await settled(sub, status="failed")


NONSENSE = [
    b"",
    b"\0" * 100,
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 " + b"\xff" * 50 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.parametrize("data", NONSENSE)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nonsense_in_an_answer_harms_nobody(
    scheme: str, data: bytes, mock_clock: Clock
) -> None:
    async with told() as (client, receiver):
        receiver.answers(data)
        sub = Subscriber(client)
        hook = {"url": receiver.url(host="localhost", scheme=scheme)}
        await sub.made(type="webhook", pattern="s/*", webhook=hook)
        await make(client, "s/1", body=b"1")
        await settled(sub, generation=1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (await sub.get())["pending"] == 1
