"""The rules of `CloudStore`, as a check that anybody can run on a store.

It finds what breaks the contract that `danube_trio.cloud._store` writes down, as far as one client
can see it; what a power cut leaves is a matter for a simulated disk. Each rule is one function,
called with the store and the beginning of keys that are its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import trio

from danube_trio.cloud._store import CloudStore, ObjectInfo
from danube_trio.errors import ObjectNotFoundError, PreconditionFailedError, StoreError

MIB = 1 << 20
RACERS = 16
# As many requests at a time as a modest server answers.
AT_ONCE = 16
BAD_KEYS = (
    *("", "/a", "a/", "a//b", ".", "a/..", "../a", "a/./b", "a\nb", "a\\b", "a\udc80"),
    "ü" * 451,  # 902 bytes
)
# What URLs, XML, shells and file systems like to treat in ways of their own.
ODD_PARTS = (
    *("a b", "a+b", "a%2Fb", "a%b", "100%", "a?b=c&d", "a#b", "..a", "a.", "~", "ü", "日本", "é"),
    *("a:b", "a;b,c", "a'b\"c", "a<b>", "a[b]", "{a}", "a|b", "a*b", "@!$", "A", "a^b`"),
)
T = TypeVar("T")


async def check_store(
    store: CloudStore, *, prefix: str = "conformance", many_keys: int = 1100
) -> None:
    """Check that the store keeps the rules of `CloudStore`.

    Everything below `prefix` is removed, before and after. What a failed check wrote stays there,
    to be looked at. On a real server it takes some seconds and about 2,500 requests.

    Args:
        store: an open store that nobody else uses below `prefix`.
        prefix: the beginning of all keys that are written.
        many_keys: how many objects one list must show; more than the pages of servers have (1000).

    Raises:
        AssertionError: a rule is broken; the text says which.
    """
    await _clear(store, prefix)
    for number, rule in enumerate(_RULES):
        await rule(store, f"{prefix}/{number}")
    await _lists_show_everything(store, f"{prefix}/many", many_keys)
    await _clear(store, prefix)
    left = await store.list_objects(prefix)
    _require(not left, f"after all objects were deleted, {len(left)} of them are listed")


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


async def _clear(store: CloudStore, prefix: str) -> None:
    found = await store.list_objects(prefix)
    for answer in await _all_at_once([partial(store.delete, info.key) for info in found]):
        if answer is not None:
            raise answer


async def _all_at_once(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T | StoreError]:
    """Make the calls, some at a time; return what each returned, or its StoreError."""
    answers: dict[int, T | StoreError] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def make(number: int, call: Callable[[], Awaitable[T]]) -> None:
        async with limiter:
            try:
                answers[number] = await call()
            except StoreError as error:
                answers[number] = error

    async with trio.open_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(make, number, call)
    return [answers[number] for number in range(len(calls))]


async def _expect(
    error: type[Exception], sentence: str, call: Callable[..., Awaitable[object]], *args: object
) -> None:
    try:
        await call(*args)
    except error:
        return
    raise AssertionError(sentence)


async def _what_was_put_is_read(store: CloudStore, at: str) -> None:
    for data in (b"", b"one", bytes(range(256)) * 5, b"shorter"):
        info = await store.put(f"{at}/key", data)
        _require(info.key == f"{at}/key", f"put of {at}/key describes {info.key!r}")
        _require(info.size_bytes == len(data), f"put of {len(data)} bytes says {info.size_bytes}")
        found, got = await store.get(f"{at}/key")
        _require(type(got) is bytes and got == data, f"{len(data)} bytes were put, others were got")
        _require(found == info, f"get describes {found}, put described {info}")
        found = await store.head(f"{at}/key")
        _require(found == info, f"head describes {found}, put described {info}")
        listed = await store.list_objects(at)
        _require(len(listed) == 1, f"one object was put, {len(listed)} are listed")
        found = listed[0]
        _require(
            (found.key, found.size_bytes) == (info.key, info.size_bytes)
            and found.etag in (info.etag, None),
            f"a list describes {found}, put described {info}",
        )


async def _ranges(store: CloudStore, at: str) -> None:
    key, data = f"{at}/key", bytes(range(100))
    await store.put(key, data)
    ranges = ((0, None), (0, 0), (0, 1), (7, 50), (7, None), (99, 100), (99, 500), (50, 50))
    for start, end in (*ranges, (100, None), (100, 200)):
        info, got = await store.get(key, start, end)
        _require(got == data[start:end], f"[{start}, {end}) of 100 bytes are other bytes")
        _require(info.size_bytes == 100, f"[{start}, {end}) says the object has {info.size_bytes}")
    for start, end in ((101, None), (101, 200), (-1, None), (5, 4)):
        sentence = f"the range [{start}, {end}) of 100 bytes is no ValueError"
        await _expect(ValueError, sentence, store.get, key, start, end)
    await store.put(key, b"")
    for start, end in ((0, None), (0, 0), (0, 10)):
        _, got = await store.get(key, start, end)
        _require(got == b"", f"[{start}, {end}) of an empty object has bytes")
    await _expect(ValueError, "[1, None) of no bytes is no ValueError", store.get, key, 1)


async def _what_is_not_there(store: CloudStore, at: str) -> None:
    sentence = "{} of an object that is not there is no ObjectNotFoundError"
    for key in (f"{at}/none", f"{at}/none/below"):
        await _expect(ObjectNotFoundError, sentence.format("get"), store.get, key)
        await _expect(ObjectNotFoundError, sentence.format("get"), store.get, key, 5, 9)
        await _expect(ObjectNotFoundError, sentence.format("head"), store.head, key)
        await store.delete(key)
    _require(await store.list_objects(f"{at}/none") == [], "a list of nothing shows something")
    _require(await store.list_children(f"{at}/none") == [], "nothing has children")
    await store.put(f"{at}/key/below", b"")
    await _expect(ObjectNotFoundError, sentence.format("get"), store.get, f"{at}/key")
    await _expect(ObjectNotFoundError, sentence.format("head"), store.head, f"{at}/key")
    await store.delete(f"{at}/key")
    await store.head(f"{at}/key/below")


async def _delete_deletes(store: CloudStore, at: str) -> None:
    await store.put(f"{at}/key", b"data")
    for _ in range(2):
        await store.delete(f"{at}/key")
        await _expect(ObjectNotFoundError, "a deleted object is read", store.get, f"{at}/key")
        _require(await store.list_objects(at) == [], "a deleted object is listed")
    await store.create(f"{at}/key", b"again")
    _, got = await store.get(f"{at}/key")
    _require(got == b"again", "what was made after a delete is not what is read")


async def _create_never_overwrites(store: CloudStore, at: str) -> None:
    first = await store.create(f"{at}/key", b"first")
    for data in (b"second", b"first"):
        sentence = "create of an object that is there is no PreconditionFailedError"
        await _expect(PreconditionFailedError, sentence, store.create, f"{at}/key", data)
    found, got = await store.get(f"{at}/key")
    _require(got == b"first" and found == first, "a create that failed has changed the object")
    for number in range(3):
        datas = [f"{number}/{racer}".encode() * 100 for racer in range(RACERS)]
        key = f"{at}/race{number}"
        answers = await _all_at_once([partial(store.create, key, data) for data in datas])
        await _one_winner(store, key, datas, answers, f"create of {key}")


async def _one_winner(
    store: CloudStore,
    key: str,
    datas: list[bytes],
    answers: list[ObjectInfo | StoreError],
    race: str,
) -> None:
    winners = [number for number, answer in enumerate(answers) if isinstance(answer, ObjectInfo)]
    others = [answer for answer in answers if not isinstance(answer, ObjectInfo)]
    strange = [answer for answer in others if not isinstance(answer, PreconditionFailedError)]
    _require(not strange, f"in a race for {race} somebody got {strange[:1]!r}")
    _require(len(winners) == 1, f"a race for {race} has {len(winners)} winners")
    info, got = await store.get(key)
    _require(got == datas[winners[0]], f"the bytes after a race for {race} are not the winner's")
    _require(info == answers[winners[0]], f"the tags after a race for {race} are not the winner's")


async def _swap_is_conditional(store: CloudStore, at: str) -> None:
    key = f"{at}/key"
    info = await store.put(key, b"0")
    if not store.can_swap:
        sentence = "can_swap is False, but swap is no NotImplementedError"
        await _expect(NotImplementedError, sentence, store.swap, key, b"1", info)
        return
    sentence = "swap is no PreconditionFailedError although the object is {}"
    old, info = info, await store.swap(key, b"1", info)
    await _expect(PreconditionFailedError, sentence.format("another"), store.swap, key, b"2", old)
    info = await store.swap(key, b"2", await store.head(key))
    info = await store.swap(key, b"3", (await store.get(key))[0])
    for number in range(3):
        datas = [f"{number}/{racer}".encode() * 100 for racer in range(RACERS)]
        answers = await _all_at_once([partial(store.swap, key, data, info) for data in datas])
        await _one_winner(store, key, datas, answers, f"swap of {key}")
        info = await store.head(key)
    await store.delete(key)
    await _expect(PreconditionFailedError, sentence.format("gone"), store.swap, key, b"4", info)
    await _expect(ObjectNotFoundError, "a swap that failed has written", store.get, key)


async def _tags_tell_contents_apart(store: CloudStore, at: str) -> None:
    seen: dict[tuple[str | None, str | None], bytes] = {}
    for number in (*range(8), 3, 0):
        data = b"%d" % number  # all of one size, one right after the other
        info = await store.put(f"{at}/key", data)
        tags = info.etag, info.version
        known = tags == (None, None) or seen.setdefault(tags, data) == data
        _require(known, f"different contents of one key had the same tags {tags}")


async def _lists_are_sorted_and_of_whole_parts(store: CloudStore, at: str) -> None:
    below = ("a/1", "a/10", "a/2", "a/b/c", "a/b-", "a-/1", "ab/1", "a.b", "z")
    keys = sorted(f"{at}/{name}" for name in below)
    await _all_at_once([partial(store.put, key, b"") for key in keys])
    for prefix in (at, f"{at}/a", f"{at}/a/b", f"{at}/ab", f"{at}/z", f"{at}/none"):
        for after in ("", *keys, f"{at}/a", f"{at}/a/10x", f"{at}/~"):
            listed = [info.key for info in await store.list_objects(prefix, after=after)]
            right = [key for key in keys if key.startswith(f"{prefix}/") and key > after]
            _require(listed == right, f"list of {prefix!r} after {after!r}: {listed}, not {right}")
    for prefix, right in (
        (at, ["a", "a-", "ab"]),
        (f"{at}/a", ["b"]),
        (f"{at}/a/b", []),
        (f"{at}/z", []),
    ):
        children = await store.list_children(prefix)
        _require(children == right, f"children of {prefix!r}: {children}, not {right}")
    await store.delete(f"{at}/ab/1")
    children = await store.list_children(at)
    children = [name for name in children if name != "ab"]  # some servers keep directories
    _require(children == ["a", "a-"], f"children of {at!r} after a delete: {children}")
    everything = [info.key for info in await store.list_objects("") if info.key in keys]
    _require(len(everything) == len(keys) - 1, "the list of all objects does not show all")
    beginning = at.split("/", 1)[0]
    _require(beginning in await store.list_children(""), f"the root has no child {beginning!r}")


async def _lists_show_everything(store: CloudStore, at: str, many: int) -> None:
    keys = [f"{at}/{number:06d}" for number in range(many)]
    await _all_at_once([partial(store.put, key, b"") for key in keys])
    listed = [info.key for info in await store.list_objects(at)]
    _require(listed == keys, f"{len(keys)} objects were put, a list shows {len(listed)}")
    listed = [info.key for info in await store.list_objects(at, after=keys[-2])]
    _require(listed == keys[-1:], f"a list after the last but one of {many} shows {listed[:3]}")


async def _uploads(store: CloudStore, at: str) -> None:
    key = f"{at}/key"
    await store.put(key, b"before")
    for sizes in ((), (0,), (3, 0, 5), (1000,) * 50, (MIB,) * 9 + (1,)):
        chunks = [bytes([number % 251 + 1]) * size for number, size in enumerate(sizes)]
        info = await store.upload(key, partial(iter, chunks))
        _require(info.size_bytes == sum(sizes), f"upload of {sum(sizes)}: {info.size_bytes}")
        found, got = await store.get(key)
        _require(got == b"".join(chunks), f"upload of chunks {sizes[:9]}: other bytes are read")
        _require(found == info, f"get describes {found}, upload described {info}")
    for size in (10, 9 * MIB):
        broken = partial(_broken_chunks, size)
        await _expect(
            ArithmeticError, "an upload swallows its iterator's error", store.upload, key, broken
        )
        _, got = await store.get(key, 0, 1)
        _require(got == b"\1", "an upload whose iterator raised has changed the object")
        sentence = "an upload whose iterator raised has made an object"
        await _expect(ArithmeticError, sentence, store.upload, f"{at}/other", broken)
        await _expect(ObjectNotFoundError, sentence, store.head, f"{at}/other")


def _broken_chunks(size: int) -> Iterator[bytes]:
    while size > 0:
        yield b"x" * min(size, MIB)
        size -= MIB
    raise ArithmeticError("the source of this upload is broken on purpose")


async def _nobody_reads_half_an_object(store: CloudStore, at: str) -> None:
    contents = [bytes([number]) * (200_000 + number) for number in range(1, 5)]
    await store.put(f"{at}/key", contents[0])
    reads = [partial(store.get, f"{at}/key") for _ in range(4)]
    for data in contents:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, f"{at}/key", data)
            answers = await _all_at_once(reads)
        for answer in answers:
            if isinstance(answer, StoreError):
                raise AssertionError("a read beside a write failed") from answer
            info, got = answer
            _require(got in contents, "a read beside a write got half an object")
            _require(info.size_bytes == len(got), "a read beside a write mixes two objects")


async def _odd_keys(store: CloudStore, at: str) -> None:
    long = f"{at}/" + "/".join(["x" * 99] * 9)
    keys = [f"{at}/{part}/{part}" for part in ODD_PARTS] + [long[:900].rstrip("/")]
    for key in keys:
        await store.create(key, key.encode())
    for key in keys:
        info, got = await store.get(key)
        _require(got == key.encode() and info.key == key, f"the key {key!r} leads elsewhere")
    listed = [info.key for info in await store.list_objects(at)]
    _require(listed == sorted(keys), f"{set(keys) ^ set(listed)} are not listed as they were put")
    children = await store.list_children(at)
    _require(children == sorted({*ODD_PARTS, "x" * 99}), f"odd keys have the children {children}")


async def _bad_keys(store: CloudStore, at: str) -> None:
    await store.put(f"{at}/key", b"")
    info = await store.head(f"{at}/key")
    for key in BAD_KEYS:
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(store.put, key, b""),
            partial(store.create, key, b""),
            partial(store.upload, key, partial(iter, [b""])),
            partial(store.get, key),
            partial(store.head, key),
            partial(store.delete, key),
        ]
        if store.can_swap:
            calls.append(partial(store.swap, key, b"", info))
        if key:
            calls += [partial(store.list_objects, key), partial(store.list_children, key)]
        for call in calls:
            await _expect(ValueError, f"the key {key!r} is no ValueError", call)


_RULES = (
    *(_what_was_put_is_read, _ranges, _what_is_not_there, _delete_deletes),
    *(_create_never_overwrites, _swap_is_conditional, _tags_tell_contents_apart),
    *(_lists_are_sorted_and_of_whole_parts, _uploads, _nobody_reads_half_an_object, _odd_keys),
    _bad_keys,
)
