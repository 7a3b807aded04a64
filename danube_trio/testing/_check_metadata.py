"""`check_metadata`: does a metadata store keep the rules of `danube_trio.metadata.MetadataStore`?

A list of small checks, each under a prefix of its own. Times are not asserted: a check that waits
for something fails after `PATIENCE` seconds of trio's clock, which a test may make virtual.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable

import trio

from danube_trio.metadata import MetadataStore, WatchEvent

PATIENCE = 60.0
RACERS = 8
ROUNDS = 5
LARGE_BYTES = 500_000
MANY = 1100  # above the bounds that stores have for one change, or one second
LATE = 6.0  # by then what had a second to live has ended, in a store that counts from two on too

Check = Callable[[MetadataStore, str], Awaitable[None]]


async def check_metadata(store: MetadataStore, *, prefix: str = "/conformance") -> None:
    """Check every rule of the contract; AssertionError says in a sentence which one is broken.

    Writes entries under a random prefix below `prefix` and removes them at the end. Takes a few
    seconds of trio's time, because times to live must end.
    """
    root = f"{prefix}/{secrets.token_hex(6)}"
    for check in CHECKS:
        name = check.__name__
        with trio.move_on_after(PATIENCE) as scope:
            await check(store, f"{root}/{name}")
        assert not scope.cancelled_caught, f"{store.url}: {name} was not over in {PATIENCE} s"
    for entry in await store.list_entries(f"{root}/"):
        await store.delete(entry.key)
    assert await store.list_entries(f"{root}/") == [], "what was deleted is listed"


async def holds(store: MetadataStore, key: str, value: bytes, why: str) -> None:
    entry = await store.get(key)
    assert entry is not None and entry.value == value, why


async def entries_are_read_back(store: MetadataStore, root: str) -> None:
    key = f"{root}/a"
    assert await store.get(key) is None, "an entry that was never put must be None"
    revision = await store.put(key, b"one")
    entry = await store.get(key)
    assert entry is not None, "an entry that was put is there"
    assert (entry.key, entry.value) == (key, b"one"), "it has the key and the value of the put"
    assert entry.revision == revision, "it has the revision that put returned"
    assert revision > 0, "a revision is above 0, which means: is not there"
    second = await store.put(key, b"two")
    assert second > revision, "revisions grow with every change"
    await holds(store, key, b"two", "a second put replaces the value")
    other = await store.put(f"{root}/b", b"other")
    assert other > second, "revisions grow with changes of other keys too"
    entry = await store.get(key)
    assert entry is not None and entry.revision == second, "they change the revision of no entry"


async def entries_are_deleted(store: MetadataStore, root: str) -> None:
    key = f"{root}/a"
    assert await store.delete(key) is False, "deleting nothing returns False"
    await store.put(key, b"one")
    assert await store.delete(key) is True, "deleting an entry returns True"
    assert await store.get(key) is None, "a deleted entry is gone"
    assert await store.delete(key) is False, "it is deleted once"
    await store.put(key, b"two")
    await holds(store, key, b"two", "a deleted key can be put again")


async def values_are_any_bytes(store: MetadataStore, root: str) -> None:
    values = {
        "empty": b"",
        "zero": b"\0",
        "all": bytes(range(256)),
        "json": '{"näme": "ж"}'.encode(),
        "large": secrets.token_bytes(LARGE_BYTES),
    }
    for name, value in values.items():
        await store.put(f"{root}/{name}", value)
        await holds(store, f"{root}/{name}", value, f"a value ({name}) comes back unaltered")
    listed = {entry.key: entry.value for entry in await store.list_entries(f"{root}/")}
    expected = {f"{root}/{name}": value for name, value in values.items()}
    assert listed == expected, "a list has the same values"


async def keys_are_any_text(store: MetadataStore, root: str) -> None:
    names = [
        *("a b", "a+b%20", 'q"uo\\te', "ünï", "日本語", "\U0001f600", "\uffff", "line\nbreak"),
        *("a//b", "tail/", "~", "x" * 1000),
    ]
    for name in names:
        await store.put(f"{root}/{name}", name.encode())
    for name in names:
        await holds(store, f"{root}/{name}", name.encode(), f"the key {name!r} is kept apart")
    keys = [entry.key for entry in await store.list_entries(f"{root}/")]
    assert keys == sorted(f"{root}/{name}" for name in names), "lists are sorted by code points"


async def prefixes_are_plain_text(store: MetadataStore, root: str) -> None:
    names = ("a", "a/1", "a/2", "ab", "b", "a0", "a.", "\u00ff/1", "\u00ff/2", "\u0100")
    for name in names:
        await store.put(f"{root}/{name}", b"")
    for part in ("a", "a/", "ab", "a/2", "c", "\u00ff", "\u00ff/", ""):
        found = [entry.key for entry in await store.list_entries(f"{root}/{part}")]
        expected = sorted(f"{root}/{name}" for name in names if name.startswith(part))
        assert found == expected, f"the list of {part!r} has the keys that begin so: {found}"


async def lists_are_whole(store: MetadataStore, root: str) -> None:
    count = 1100  # more than a page, where a store has pages
    for start in range(0, count, 100):
        numbers = range(start, start + 100)
        await store.transact({}, put={f"{root}/{n:04}": b"%d" % n for n in numbers})
    entries = await store.list_entries(f"{root}/")
    assert [entry.key for entry in entries] == [f"{root}/{n:04}" for n in range(count)]
    assert all(entry.value == b"%d" % n for n, entry in enumerate(entries)), "values are in place"
    for start in range(0, count, 100):
        await store.transact({}, delete=[f"{root}/{n:04}" for n in range(start, start + 100)])


async def bad_arguments_are_refused(store: MetadataStore, root: str) -> None:
    async def refused(what: str, call: Awaitable[object]) -> None:
        try:
            await call
        except ValueError:
            return
        raise AssertionError(f"{what} must be a ValueError")

    for key in ("", "relative/path", "/", "/nul\0", "/lone\ud800"):
        await refused(f"the key {key!r} (get)", store.get(key))
        await refused(f"the key {key!r} (put)", store.put(key, b""))
        await refused(f"the key {key!r} (delete)", store.delete(key))
        await refused(f"the key {key!r} (expect)", store.transact({key: 0}))
    a = f"{root}/a"
    await refused("a time to live below a second", store.put(a, b"", ttl=0.5))
    await refused("an endless time to live", store.put(a, b"", ttl=float("inf")))
    await refused("putting and deleting one key", store.transact({}, put={a: b""}, delete=[a]))
    await refused("deleting one key twice", store.transact({}, delete=[a, a]))
    await refused("an expectation below 0", store.transact({a: -1}, put={a: b""}))
    assert await store.list_entries(f"{root}/") == [], "what was refused changed nothing"


async def transactions_check_all_expectations(store: MetadataStore, root: str) -> None:
    a, b, c = (f"{root}/{name}" for name in "abc")
    first = await store.transact({a: 0, b: 0}, put={a: b"1", b: b"1"})
    assert first is not None, "keys that are not there have revision 0"
    assert await store.transact({a: 0}, put={c: b"!"}) is None, "0 fails for a key that is there"
    assert await store.transact({c: first}, put={c: b"!"}) is None, "a revision fails without one"
    assert await store.transact({a: first + 1}, put={c: b"!"}) is None, "revisions must be equal"
    failed = await store.transact({a: first, b: first, c: first}, put={a: b"!"}, delete=[b])
    assert failed is None, "one failed expectation of several fails the transaction"
    entries = await store.list_entries(f"{root}/")
    expected = [(a, b"1", first), (b, b"1", first)]
    assert [(e.key, e.value, e.revision) for e in entries] == expected, (
        "a failed transaction changes nothing"
    )
    second = await store.transact({a: first, b: first, c: 0}, put={c: b"2"}, delete=[a])
    assert second is not None and second > first, "expectations that hold let it happen"
    entries = await store.list_entries(f"{root}/")
    expected = [(b, b"1", first), (c, b"2", second)]
    assert [(e.key, e.value, e.revision) for e in entries] == expected, (
        "a transaction puts and deletes, under one revision"
    )
    assert await store.transact({b: first}) is not None, "a transaction may change nothing"
    assert await store.transact({}, delete=[a]) is not None, "it may delete what is not there"
    assert await store.transact({a: 0}, put={a: b"3"}) is not None, "a deleted key has revision 0"


async def races_have_one_winner(store: MetadataStore, root: str) -> None:
    async def create(key: str, name: bytes) -> None:
        if await store.transact({key: 0}, put={key: name}) is not None:
            winners.append(name)

    for number in range(ROUNDS):
        key = f"{root}/{number}"
        winners: list[bytes] = []
        async with trio.open_nursery() as nursery:
            for racer in range(RACERS):
                nursery.start_soon(create, key, b"racer %d" % racer)
        assert len(winners) == 1, f"one of {RACERS} creates the key, not {len(winners)}"
        await holds(store, key, winners[0], "the winner's value is there")


async def compare_and_swap_counts_exactly(store: MetadataStore, root: str) -> None:
    async def count() -> None:
        for _ in range(ROUNDS):
            while True:
                a, b = await store.get(keys[0]), await store.get(keys[1])
                assert a is not None and b is not None
                new = {key: b"%d" % (int(a.value) + 1) for key in keys}
                if await store.transact({a.key: a.revision, b.key: b.revision}, put=new):
                    break

    keys = [f"{root}/a", f"{root}/b"]
    await store.transact({}, put=dict.fromkeys(keys, b"0"))
    async with trio.open_nursery() as nursery:
        for _ in range(RACERS):
            nursery.start_soon(count)
    for key in keys:
        entry = await store.get(key)
        assert entry is not None and int(entry.value) == RACERS * ROUNDS, (
            f"{RACERS * ROUNDS} increments by compare-and-swap count to {entry and entry.value!r}"
        )


async def entries_end_with_their_time(store: MetadataStore, root: str) -> None:
    mortal, renewed, kept, swapped = (f"{root}/{name}" for name in ("a", "b", "c", "d"))
    revision = await store.put(mortal, b"1", ttl=1)
    assert await store.get(mortal) is not None, "an entry with a time to live is there at first"
    await store.put(renewed, b"1", ttl=1)
    await store.put(renewed, b"2", ttl=3600)
    await store.put(kept, b"1", ttl=1)
    await store.put(kept, b"2")
    base = await store.put(swapped, b"1", ttl=1)
    await store.transact({swapped: base}, put={swapped: b"2"})
    last = await store.put(f"{root}/last", b"", ttl=1)
    async with store.watch(mortal, after=revision) as events:
        event = await anext(events)
    assert event.value is None and event.revision > revision, "its end is an event, a deletion"
    assert await store.get(mortal) is None, "an entry is gone when its time has ended"
    assert await store.transact({mortal: 0}, put={mortal: b"2"}), "then it is not there for all"
    async with store.watch(f"{root}/last", after=last) as events:
        assert (await anext(events)).value is None
    for key, why in ((renewed, "a put begins a new time"), (kept, "a put without it lasts")):
        entry = await store.get(key)
        assert entry is not None and entry.value == b"2", why
    assert await store.get(swapped) is not None, "what a transaction puts lasts"
    assert await store.get(mortal) is not None, "a new entry does not end with the old one's time"


async def times_that_end_together_end_for_all_calls(store: MetadataStore, root: str) -> None:
    async def put(keys: list[str]) -> None:
        for key in keys:
            revisions[key] = await store.put(key, b"old", ttl=1)

    async def create(key: str) -> None:
        if await store.transact({key: 0}, put={key: b"new"}) is not None:
            winners.append(key)

    keys = [f"{root}/{n:04}" for n in range(MANY)]
    revisions: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        for worker in range(RACERS):
            nursery.start_soon(put, keys[worker::RACERS])
    *_, raced, got, deleted, swapped, created = keys
    async with store.watch(created, after=revisions[created]) as events:
        await trio.sleep(LATE)
        # Transactions first: a read might let go what they find.
        assert await store.transact({created: 0}, put={created: b"new"}), (
            f"what has ended is not there for a transaction, when {MANY} end together too"
        )
        told = [(await anext(events)).value, (await anext(events)).value]
        assert told == [None, b"new"], "the end of the old entry comes before the new one"
    expect = {swapped: revisions[swapped]}
    assert await store.transact(expect, put={swapped: b"new"}) is None, (
        "the revision of an entry that has ended fails"
    )
    assert await store.delete(deleted) is False, "what has ended cannot be deleted"
    winners: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(RACERS):
            nursery.start_soon(create, raced)
    assert winners == [raced], f"one of {RACERS} follows an entry that has ended: {winners}"
    assert await store.get(got) is None, "what has ended is not there for a read"
    listed = [entry.key for entry in await store.list_entries(f"{root}/")]
    assert listed == [raced, created], "and in no list"
    await store.put(got, b"again", ttl=3600)
    await holds(store, got, b"again", "it can be put again")


def described(events: Iterable[WatchEvent]) -> list[tuple[str, bytes | None]]:
    return [(event.key.rpartition("/")[2], event.value) for event in events]


async def watches_see_all_changes_in_order(store: MetadataStore, root: str) -> None:
    await store.put(f"{root}/w/old", b"before")
    async with store.watch(f"{root}/w/") as events:
        await store.put(f"{root}/w/a", b"1")
        await store.put(f"{root}/x", b"beside")
        await store.put(f"{root}/w/a", b"2")
        await store.delete(f"{root}/w/old")
        await store.delete(f"{root}/w/nothing")
        revision = await store.transact({}, put={f"{root}/w/b": b""}, delete=[f"{root}/w/a"])
        seen = [await anext(events) for _ in range(5)]
    assert described(seen[:3]) == [("a", b"1"), ("a", b"2"), ("old", None)], (
        f"a watch gives the changes after it was entered, under its prefix, in order: {seen}"
    )
    assert sorted(described(seen[3:]), key=str) == [("a", None), ("b", b"")], (
        "a watch gives every change of a transaction"
    )
    assert [e.revision for e in seen[3:]] == [revision, revision], "they share its revision"
    assert seen[0].revision < seen[1].revision < seen[2].revision, "revisions grow"


async def watches_replay_from_a_revision(store: MetadataStore, root: str) -> None:
    revisions = [await store.put(f"{root}/a", b"%d" % n) for n in range(6)]
    async with store.watch(f"{root}/", after=revisions[1]) as events:
        replayed = [await anext(events) for _ in range(4)]
        await store.put(f"{root}/b", b"live")
        live = await anext(events)
    assert [(e.value, e.revision) for e in replayed] == [
        (b"%d" % n, revisions[n]) for n in range(2, 6)
    ], "a watch after a revision gives the changes since then, without that one"
    assert (live.key, live.value) == (f"{root}/b", b"live"), "then it goes on with new ones"
    async with store.watch(f"{root}/", after=live.revision) as events:
        await store.put(f"{root}/c", b"next")
        assert (await anext(events)).value == b"next", "resuming at the newest repeats nothing"


async def watches_resume_within_a_change(store: MetadataStore, root: str) -> None:
    gone = f"{root}/gone"
    base = await store.put(gone, b"")
    names = [f"{root}/{n}" for n in range(4)]
    change = dict.fromkeys([*names, f"{root}x"], b"1")  # the last one is not under the prefix
    revision = await store.transact({}, put=change, delete=[gone])
    await store.put(names[0], b"2")
    expected = {(name, b"1") for name in names} | {(gone, None)}
    for count in range(1, len(expected) + 1):
        async with store.watch(f"{root}/", after=base) as events:
            first = [await anext(events) for _ in range(count)]
        assert [event.last for event in first] == [
            n == len(expected) for n in range(1, count + 1)
        ], "an event says whether it is the last one of its change under the prefix"
        resume = first[-1].resume_after
        assert resume == revision if first[-1].last else resume == base, (
            "a watch resumes after a change that was seen whole, or else before it"
        )
        seen = {(event.key, event.value) for event in first}
        async with store.watch(f"{root}/", after=resume) as events:
            while (event := await anext(events)).value != b"2":
                seen.add((event.key, event.value))
                assert not first[-1].last, "what was seen whole is not repeated"
        assert seen == expected, f"resuming after {count} of {len(expected)} events misses nothing"


async def watches_have_one_iterator_or_lose_nothing(store: MetadataStore, root: str) -> None:
    async def take() -> None:
        try:
            seen.append((await anext(events)).value)
        except trio.BusyResourceError:
            refused.append(True)

    seen: list[bytes | None] = []
    refused: list[bool] = []
    async with store.watch(f"{root}/") as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
            await trio.sleep(0.1)
            for n in range(2 - len(refused)):
                await store.put(f"{root}/a", b"%d" % n)
        assert len(seen) + len(refused) == 2 and seen, "a second task gets an event, or a refusal"
        assert sorted(seen, key=str) == [b"%d" % n for n in range(len(seen))], "each event once"


async def watches_wait_and_are_cancelled(store: MetadataStore, root: str) -> None:
    seen: list[WatchEvent] = []

    async def watch() -> None:
        async with store.watch(f"{root}/") as events:
            ready.set()
            async for event in events:
                seen.append(event)
                if event.value == b"last":
                    return

    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await ready.wait()
        for n in range(20):
            await store.put(f"{root}/{n}", b"%d" % n)
        await store.put(f"{root}/end", b"last")
    assert [e.value for e in seen] == [*(b"%d" % n for n in range(20)), b"last"], (
        "a watch that waits gives each change once, in order"
    )
    async with store.watch(f"{root}/") as events:
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(events)
    assert scope.cancelled_caught, "waiting for an event can be cancelled"
    await store.put(f"{root}/after", b"")


CHECKS: tuple[Check, ...] = (
    *(entries_are_read_back, entries_are_deleted, values_are_any_bytes, keys_are_any_text),
    *(prefixes_are_plain_text, lists_are_whole, bad_arguments_are_refused),
    *(transactions_check_all_expectations, races_have_one_winner, compare_and_swap_counts_exactly),
    *(entries_end_with_their_time, times_that_end_together_end_for_all_calls),
    *(watches_see_all_changes_in_order, watches_replay_from_a_revision),
    *(watches_resume_within_a_change, watches_have_one_iterator_or_lose_nothing),
    watches_wait_and_are_cancelled,
)
