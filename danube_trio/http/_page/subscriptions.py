"""Subscriptions: what a program that dispatches here says of them, else what is saved.

Of one that is open in this program all is known. Of others the metadata store has the cursor, which
says what is settled and what has failed; what is in flight, who consumes and why something failed
only their program could tell. It cannot be asked: the log of a topic has one process, and that is
this one. So such a subscription is not being dispatched at all, unless by this program, which has
then not said so (`Page(dispatches=...)`).

The end of a topic, for the lag, is that of the last look; nothing is opened for a list of all. For
the subscriptions of one topic it is opened if that was not known lately, and so are the topics of
their dead letters (`Topics.ends`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import trio

from danube_trio.dispatch import ReliableDispatch, Subscription
from danube_trio.dispatch._saved import SavedSubscription, redrive_saved, saved_subscriptions
from danube_trio.errors import text_of
from danube_trio.http._page.topics import REST, Topics
from danube_trio.http._request import Refusal, Rights
from danube_trio.storage import Storage

# All subscriptions are read from the metadata store again after so long at least.
SAVED_SECONDS = 2.0
# What is shown of a subscription that is open here, by the names of its statistics.
LIVE = (
    *("phase", "consumers", "end", "saved_end", "lag", "in_flight", "retrying", "blocked"),
    *("dead_lettered", "delivered", "acked", "failed", "dropped", "lost", "last_error"),
)

Dispatches = Callable[[], Iterable[ReliableDispatch]]


class Subscriptions:
    """The subscriptions of a storage's topics.

    Args:
        dispatches: those that are open in this program, now.
    """

    def __init__(self, storage: Storage, topics: Topics, dispatches: Dispatches | None) -> None:
        self._storage = storage
        self._topics = topics
        self._dispatches = dispatches
        self._saved: list[SavedSubscription] = []
        self._next_look = -math.inf
        self._turn = trio.Lock()
        self._redriving = trio.Lock()

    # ---- all of them

    async def all(self, rights: Rights, text: str, first: int, count: int) -> dict[str, Any]:
        """Those of all topics that somebody may read; those with `text` in topic or name."""
        await self._topics.look()
        await self._look()
        known = {(saved.topic, saved.name): saved for saved in self._saved}
        live = self._live()
        seen = [
            key
            for key in sorted(known.keys() | live.keys())
            if text in " ".join(key).lower() and rights.may("read", self._topics.right_of(key[0]))
        ]
        rows: list[dict[str, Any]] = []
        for key in seen[first : first + count]:
            row = self._topics.row(key[0])
            end = row.figures.get("next_offset") if row is not None else None
            rows.append(self._shown(key, known.get(key), live.get(key), end))
        return {"matching": len(seen), "first": first, "rows": rows}

    async def _look(self) -> None:
        async with self._turn:
            began = trio.current_time()
            if began < self._next_look:
                return
            root = self._storage.config.metadata_root
            self._saved = await saved_subscriptions(self._storage.metadata, root)
            took = trio.current_time() - began
            self._next_look = trio.current_time() + max(SAVED_SECONDS, REST * took)

    def _live(self) -> dict[tuple[str, str], Subscription]:
        found: dict[tuple[str, str], Subscription] = {}
        for dispatch in self._dispatches() if self._dispatches is not None else ():
            topic = f"/{dispatch.topic.removeprefix('/')}"
            for name, subscription in dispatch.subscriptions().items():
                if subscription is not None and subscription.is_open:
                    found[topic, name] = subscription
        return found

    def _shown(
        self,
        key: tuple[str, str],
        saved: SavedSubscription | None,
        live: Subscription | None,
        end: int | None,
    ) -> dict[str, Any]:
        """One as plain data. `end` is where the topic ends, if that is known."""
        stream = self._topics.stream_of(key[0])
        path = stream.name if stream is not None else None
        about: dict[str, Any] = {"topic": key[0], "stream": path, "name": key[1], "fault": ""}
        if saved is not None:
            about |= {"letters": saved.letters, "redriven": saved.redriven, "fault": saved.fault}
            about |= {"moves": saved.moves}
        if live is not None:
            if live.options.dead_letter_topic is not None:
                about["letters"] = live.options.dead_letter_topic
            found = attrs.asdict(live.statistics_nowait())
            return {**about, **{name: found[name] for name in LIVE}}
        assert saved is not None
        if saved.fault:
            return {**about, "phase": "saved"}
        lag = saved.lag(end) if end is not None else None
        return {**about, "phase": "saved", "end": saved.end, "lag": lag, "retrying": saved.failed}

    # ---- those of a topic

    async def of_topic(self, topic: str) -> dict[str, Any]:
        """Those of one topic, with what waits in the topics of their dead letters."""
        root = self._storage.config.metadata_root
        found = await saved_subscriptions(self._storage.metadata, root, topic)
        known = {saved.name: saved for saved in found}
        live = {key[1]: each for key, each in self._live().items() if key[0] == topic}
        if not known and not live:
            return {"rows": []}
        _, end = await self._topics.ends(topic)
        rows: list[dict[str, Any]] = []
        for name in sorted(known.keys() | live.keys()):
            saved = known.get(name)
            row = self._shown((topic, name), saved, live.get(name), end)
            letters: str | None = row.get("letters")
            if saved is not None and letters is not None and await self._topics.has(letters):
                redriven = saved.redriven if letters == saved.letters else 0
                row["dead_letters"] = await self._waiting(letters, redriven)
            rows.append(row)
        return {"rows": rows}

    async def _waiting(self, letters: str, redriven: int) -> int:
        """Letters that may be brought back. In a topic that several share, those of others too."""
        start, end = await self._topics.ends(letters)
        return end - max(start, redriven) if redriven <= end else end - start

    # ---- redriving

    async def redrive(self, topic: str, name: str, letters: str | None, limit: int) -> int:
        """Append dead letters to their topic again, `limit` at most; how many.

        Once begun it goes on to its end, whoever asked: what was brought back is noted after that.

        Args:
            letters: the topic that they are in; None: where they are as far as is known.

        Raises Refusal, and what the storage raises.
        """
        async with self._redriving:
            try:
                return await self._redrive(topic, name, letters, limit)
            except ValueError as error:  # it has no dead letters, or cannot be redriven from here
                raise Refusal(409, text_of(error)) from None

    async def _redrive(self, topic: str, name: str, letters: str | None, limit: int) -> int:
        live = self._live().get((topic, name))
        if live is not None:
            return await _to_its_end(live.redrive, limit)
        root = self._storage.config.metadata_root
        found = await saved_subscriptions(self._storage.metadata, root, topic)
        saved = next((each for each in found if each.name == name), None)
        if saved is None:
            raise Refusal(404, f"topic {topic} has no subscription {name!r}")
        if saved.fault:
            raise Refusal(409, saved.fault)
        where = letters if letters is not None else saved.letters
        if not await self._topics.has(where):
            raise Refusal(404, f"there is no topic {where}: it has no dead letters")
        return await _to_its_end(redrive_saved, self._storage, saved, where, limit)


async def _to_its_end(fn: Callable[..., Any], *args: Any) -> int:
    done = 0
    with trio.CancelScope(shield=True):
        done = await fn(*args)
    return done
