"""What subscriptions do by themselves: wake somebody, end leases, try again, clean up.

Each subscription has a task of its own, which sleeps until `Subscription.due`, or until something
changed. So there is one at most that tells anybody of its wakes, and whatever a request does
meanwhile happens between two of its steps. Tasks may be cancelled at any moment: what they do is
written down before, and the next start goes on.

**A webhook** is told in three steps: the wake is written; it is sent, and here nothing is locked,
as the receiver may call back before it answers; what became of it is written. Then:

==========================================  =======================================================
the receiver                                the wake
==========================================  =======================================================
answers 2xx, and that all is done           ends; what it was told is acknowledged
answers 2xx                                 goes on until it calls back, or its lease is over
cannot be reached, or answers otherwise     ends; the next one comes after a pause
does not answer in time                     goes on as long as its lease: it may be working. Then as
                                            above
==========================================  =======================================================

**A wake stream** gets its event by the code that answers a POST, with the producer headers: the
subscription is the producer, the generation its epoch, and each epoch has one event. So an event is
written again after a crash, or when nobody knows whether it was, and is there once. A wake stream
that is not there, is closed, or is not of JSON: the wake stays, the status says why, and it is
tried again after a pause, or at once when a stream of that name is made.
"""

from __future__ import annotations

import json
import logging

import trio

from danube_trio._core.pauses import Pauses
from danube_trio.errors import DanubeError
from danube_trio.http._append import append
from danube_trio.http._fields import JSON
from danube_trio.http._keys import Keys, signature
from danube_trio.http._offsets import token
from danube_trio.http._request import Refusal, Request
from danube_trio.http._service import Service
from danube_trio.http._subscription import Delivery, Subscription, Told
from danube_trio.http._subscriptions import Subscriptions
from danube_trio.http._targets import target_of
from danube_trio.http._webhooks import NotDelivered, Webhooks
from danube_trio.storage import housekeeping

log = logging.getLogger("danube_trio.http")

# How many webhooks are under way at once: each is a connection. A subscription has one at most, so
# receivers that are slow keep others waiting only if there are so many of them. A guess.
DELIVERIES = 64
# How many streams are looked at together after a crash: opening a log takes some ten milliseconds,
# and requests come first.
LOOKS = 2
# When the store does not answer.
PAUSES = Pauses(0.2, 60.0)


class Waking:
    """Of one service."""

    def __init__(self, service: Service, subscriptions: Subscriptions, keys: Keys) -> None:
        self._service = service
        self._subscriptions = subscriptions
        self._keys = keys
        self._webhooks = Webhooks()
        self._deliveries = trio.CapacityLimiter(DELIVERIES)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with trio.open_nursery() as nursery:

            def begin(sub: Subscription) -> None:
                nursery.start_soon(self._care, sub, name=f"danube_trio {sub.path}")

            self._subscriptions.made = begin
            for sub in self._subscriptions.all():
                begin(sub)
            nursery.start_soon(self._clean, name="danube_trio subscriptions")
            for _ in range(LOOKS):
                nursery.start_soon(self._look, name="danube_trio subscriptions")

    async def _care(self, sub: Subscription) -> None:
        """Do what is due, until the subscription is gone."""
        failures = 0
        while not sub.gone:
            due = sub.due(trio.current_time())
            if due > trio.current_time():
                with trio.move_on_at(due):
                    await sub.changed.wait()
                continue
            try:
                await self._act(sub)
                failures = 0
            except (DanubeError, OSError, Refusal) as error:
                failures += 1
                if not sub.gone:
                    log.warning("subscription %s has to wait: %s", sub.id, error)
                    await trio.sleep(PAUSES.after(failures))

    async def _act(self, sub: Subscription) -> None:
        if sub.in_doubt:
            await self._subscriptions.settle(sub)
        elif sub.phase == "held":
            await self._subscriptions.expire(sub)
        elif sub.phase == "woken":
            await self._write_event(sub)
        elif sub.is_webhook:
            async with self._deliveries:  # the lease begins when it is sent
                await self._call(sub)
        else:
            await self._subscriptions.wake(sub)

    # ---- webhooks

    async def _call(self, sub: Subscription) -> None:
        wake = await self._subscriptions.wake(sub)
        if wake is None:
            return
        told = sub.snapshot()
        url = sub.made.configuration.url
        assert url is not None
        until = trio.current_time() + self._service.config.webhook_seconds
        done, failed = False, NotDelivered("it was not answered in time", known=False)
        answered = False
        with trio.CancelScope(deadline=min(until, sub.lease_end)) as scope:
            sub.delivery = Delivery(wake, scope, until)
            try:
                done = await self._send(sub, url, told)
                answered = True
            except NotDelivered as error:
                failed = error
            except Refusal as refusal:  # a package is not installed any more
                failed = NotDelivered(refusal.text, known=True)
            finally:
                sub.delivery = None
        if answered:
            await self._subscriptions.delivered(sub, wake, told if done else None)
        else:
            await self._subscriptions.undelivered(sub, wake, str(failed), known=failed.known)

    async def _send(self, sub: Subscription, url: str, told: list[Told]) -> bool:
        service, state, base = self._service, sub.state, sub.made.base_url
        try:
            target = target_of(url, service.config.webhooks)
        except ValueError as error:  # the settings were changed
            raise NotDelivered(f"it was not sent: {error}", known=True) from error
        body = {
            "subscription_id": sub.name,
            "wake_id": state.wake,
            "generation": state.generation,
            "streams": [described(each) for each in told],
            "callback_url": f"{base}{sub.path}/callback",
            "callback_token": self._keys.token(
                sub.made.uid, "callback", state.generation, state.wake
            ),
        }
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        signed = signature(await self._keys.signer(), data, service.clock())
        return await self._webhooks.send(target, data, signed)

    # ---- wake streams

    async def _write_event(self, sub: Subscription) -> None:
        service, state = self._service, sub.state
        path = sub.made.configuration.wake_stream
        assert path is not None
        first = next(iter(sub.pending), None)
        event = {
            "type": "wake",
            "subscription_id": sub.name,
            "stream": None if first is None else first.stream.path,
            "generation": state.generation,
            "ts": int(state.woken_at * 1000),
        }
        headers = {
            "content-type": JSON,
            "producer-id": f"danube-trio/{sub.made.uid}",
            "producer-epoch": str(state.generation),
            "producer-seq": "0",
        }
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        request = Request("POST", path, {}, headers, data, sub.made.base_url, "/")
        try:
            stream = await service.stream(path)
            with housekeeping():
                await append(service, request)
        except (DanubeError, OSError, Refusal) as error:
            text = error.text if isinstance(error, Refusal) else str(error)
            text = f"the wake stream {path} takes no event: {text}"
            await self._subscriptions.undelivered(sub, state.wake, text, known=True)
        else:
            await self._subscriptions.told(sub, state.wake, stream.topic)

    # ---- looking, cleaning

    async def _look(self) -> None:
        """Find out where streams end of which nobody knows it."""
        subscriptions, failures = self._subscriptions, 0
        while True:
            work = subscriptions.work
            stream = next(iter(subscriptions.unlooked), None)
            if stream is None:
                await work.wait()
                continue
            del subscriptions.unlooked[stream]
            try:
                if stream.live:
                    await self._service.seen(stream)
                failures = 0
            except (DanubeError, OSError, Refusal) as error:
                subscriptions.unlooked[stream] = None  # behind the others
                failures += 1
                log.warning("a stream of a subscription cannot be looked at yet: %s", error)
                await trio.sleep(PAUSES.after(failures))
            except BaseException:
                subscriptions.unlooked[stream] = None
                raise

    async def _clean(self) -> None:
        """Remove what nobody needs, and ask for what is not known."""
        subscriptions, failures = self._subscriptions, 0
        while True:
            work = subscriptions.work
            try:
                await subscriptions.settle_ids()
                await subscriptions.sweep()
            except (DanubeError, OSError, Refusal) as error:
                failures += 1
                log.warning("subscriptions are cleaned up later: %s", error)
                await trio.sleep(PAUSES.after(failures))
                continue
            failures = 0
            await work.wait()


def described(told: Told) -> dict[str, object]:
    """What a worker is told of a stream."""
    link = told.link
    return {
        "path": link.stream.path,
        "link_type": "explicit" if link.explicit else "glob",
        "acked_offset": acked(link.acked),
        "tail_offset": token(told.tail),
        "has_pending": told.pending,
    }


def acked(offset: int | None) -> str:
    """An acknowledged offset. Where nobody knows yet where a stream ends, it is its end: now."""
    return "now" if offset is None else token(offset)
