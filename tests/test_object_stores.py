"""Object stores over obstore: what failures become, cancelling, repeating, large uploads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fake_gcs
import pytest
import trio
from fake_http import Answer, Script, answering
from servers import Server, ministack

from danube_trio.cloud import CloudStore, ObjectInfo, StoreOptions, open_store
from danube_trio.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreError,
    StoreUnavailableError,
)

MIB = 1 << 20
KEY = "dir/key"
INFO = ObjectInfo(KEY, 1, '"tag"')


def calls(store: CloudStore) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "put": partial(store.put, KEY, b"data"),
        "create": partial(store.create, KEY, b"data"),
        "swap": partial(store.swap, KEY, b"data", INFO),
        "upload": partial(store.upload, KEY, lambda: iter([b"data"])),
        "get": partial(store.get, KEY),
        "head": partial(store.head, KEY),
        "list": partial(store.list_objects, KEY),
        "list ": partial(store.list_children, KEY),
        "delete": partial(store.delete, KEY),
    }


async def failures(store: CloudStore) -> dict[str, type[StoreError]]:
    """Make every call; return what each raises, after a look at the text."""
    found: dict[str, type[StoreError]] = {}
    for name, call in calls(store).items():
        with pytest.raises(StoreError) as caught:
            await call()
        error = caught.value
        assert str(error).startswith(f"{store.url}: {name.strip()} of '{KEY}': ")
        for text in (str(error), str(error.__cause__)):
            assert "s3cret" not in text
            assert "Debug source" not in text
            assert "\n" not in text
        assert error.__cause__ is not None
        found[name] = type(error)
    return found


@pytest.mark.happens
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_is_denied(status: int) -> None:
    with answering((status, b"<Error><Code>AccessDenied</Code></Error>")) as server:
        async with open_store("s3://bucket/p", server.options(max_retries=0)) as store:
            assert set((await failures(store)).values()) == {AccessDeniedError}


@pytest.mark.parametrize("answer", [(500, b""), (503, b"<Error>SlowDown</Error>"), "drop"])
async def test_a_server_in_trouble_is_unavailable(answer: Answer) -> None:
    with answering(answer) as server:
        async with open_store("s3://bucket/p", server.options(max_retries=0)) as store:
            assert set((await failures(store)).values()) == {StoreUnavailableError}


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with answering("hang") as server:
        options = server.options(max_retries=0, request_timeout=0.1)
        async with open_store("s3://bucket/p", options) as store:
            assert set((await failures(store)).values()) == {StoreUnavailableError}


async def test_a_killed_server_is_unavailable_and_its_successor_is_not(tmp_path: Path) -> None:
    with ministack(tmp_path) as server:
        async with open_store(server.url, server.options, max_retries=0) as store:
            await store.create(KEY, b"data")
            server.kill()
            assert set((await failures(store)).values()) == {StoreUnavailableError}


@pytest.mark.happens
async def test_a_missing_bucket_is_not_a_missing_object(s3: Server) -> None:
    async with open_store("s3://no-such-bucket", s3.options) as store:
        found = await failures(store)
        # The answer to a HEAD has no body that could tell.
        assert found.pop("head") is ObjectNotFoundError
        found.pop("delete")
        assert set(found.values()) <= {AccessDeniedError, PreconditionFailedError}
        with pytest.raises(AccessDeniedError, match="is there such a bucket"):
            await store.create(KEY, b"")


@pytest.mark.parametrize("status", [409, 412])
async def test_a_conflict_is_a_failed_precondition(status: int) -> None:
    with answering((status, b"<Error/>")) as server:
        async with open_store("s3://bucket", server.options()) as store:
            for name in ("create", "swap"):
                with pytest.raises(PreconditionFailedError, match=name):
                    await calls(store)[name]()


async def test_a_long_key_hides_nothing_of_an_answer(s3: Server, gcs: Server) -> None:
    key = "/".join(["ü" * 49] * 9)
    for server in (s3, gcs):
        async with open_store(f"{server.url}/{'p' * 100}", server.options) as store:
            with pytest.raises(ObjectNotFoundError):
                await store.get(key)
            await store.create(key, b"data")
            assert (await store.get(key, 4))[1] == b""
            with pytest.raises(ValueError, match="beyond the end"):
                await store.get(key, 5)
            with pytest.raises(PreconditionFailedError):
                await store.create(key, b"other")
            await store.delete(key)
    with answering((403, b"")) as script:
        async with open_store("s3://bucket", script.options()) as store:
            with pytest.raises(AccessDeniedError):
                await store.list_objects(key)


async def test_a_body_that_ends_early_is_unavailable() -> None:
    with answering((200, b"12345")) as server:
        async with open_store("s3://bucket", server.options(max_retries=0)) as store:
            # It asked for a part, and gets a 200 with something.
            with pytest.raises(StoreUnavailableError, match=f"get of '{KEY}'"):
                await store.get(KEY, 1, 3)


def azure(script: Script, **more: Any) -> CloudStore:
    options = StoreOptions(endpoint=script.endpoint, account_name="account", allow_http=True)
    return open_store("az://box/p", options, max_retries=0, **more)


async def test_azure_is_asked_with_conditions() -> None:
    with answering((201, b"")) as server:
        store = azure(server, account_key="czNjcmV0")
        await store.put(KEY, b"data")
        await store.create(KEY, b"data")
        await store.swap(KEY, b"data", INFO)
        assert server.requests == [f"PUT /box/p/{KEY}"] * 3
        conditions = [(h.get("if-none-match"), h.get("if-match")) for h in server.headers]
        assert conditions == [(None, None), ("*", None), (None, '"tag"')]
        await store.aclose()


async def test_a_signature_in_a_url_is_not_shown() -> None:
    token = "sv=2023-11-03&sp=rw&sig=s3cret%3D"
    for answer in ((500, b""), (403, b""), (404, b""), "drop"):
        with answering(answer) as server:
            store = azure(server, sas_token=token)
            await failures(store)
            assert all("sig=s3cret" in request for request in server.requests)
            await store.aclose()


# -- repeating


async def test_a_create_whose_answer_is_lost_is_not_repeated() -> None:
    for name in ("create", "swap"):
        with answering("drop", (412, b"")) as server:
            async with open_store("s3://bucket", server.options(max_retries=5)) as store:
                with pytest.raises(StoreUnavailableError):
                    await calls(store)[name]()
            assert server.requests == [f"PUT /bucket/{KEY}"]


async def test_what_may_be_repeated_is() -> None:
    with answering((503, b""), (200, b"data")) as server:
        async with open_store("s3://bucket", server.options(max_retries=1)) as store:
            assert (await store.get(KEY))[1] == b"data"
        assert len(server.requests) == 2


# -- trio


async def wait_in_thread(script: Script) -> None:
    assert await trio.to_thread.run_sync(script.arrived.wait, 60)


@pytest.mark.parametrize("name", calls(open_store("memory:")))
async def test_a_cancelled_call_returns_while_the_server_hangs(name: str) -> None:
    with answering("hang") as server:
        async with open_store("s3://bucket", server.options()) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls(store)[name])
                await wait_in_thread(server)  # other tasks go on meanwhile
                nursery.cancel_scope.cancel()
            server.over.set()


async def test_more_calls_than_threads_wait_their_turn(s3: Server) -> None:
    async with open_store(f"{s3.url}/turns", s3.options, concurrency=2) as store:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.put, f"{number}", b"")
        assert len(await store.list_objects("")) == 20


async def test_a_store_may_be_used_by_one_event_loop_after_another(s3: Server) -> None:
    store = open_store(f"{s3.url}/loops", s3.options)

    def use() -> None:
        trio.run(store.put, KEY, b"data")

    await trio.to_thread.run_sync(use)
    assert (await store.get(KEY))[1] == b"data"
    await store.aclose()
    await store.aclose()


# -- uploads


def gcs_store(endpoint: str, **more: Any) -> CloudStore:
    options = StoreOptions(endpoint=endpoint, anonymous=True, allow_http=True)
    return open_store("gs://bucket", options, **more)


async def test_an_upload_holds_a_few_parts_and_no_more() -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(60):
            taken += 1
            yield bytes(MIB)

    with fake_gcs.serving() as (endpoint, bucket):
        store = gcs_store(endpoint, part_bytes=5 * MIB, upload_concurrency=2)
        bucket.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.upload, KEY, chunks)
            while len(bucket.waiting) < 2:
                await trio.lowlevel.checkpoint()
            assert taken <= 5 * (2 + 1) + 1
            bucket.gate.set()
        assert len(bucket.objects[KEY].data) == 60 * MIB
        await store.aclose()


@asynccontextmanager
async def cancelled_upload() -> AsyncGenerator[tuple[CloudStore, fake_gcs.Bucket]]:
    """The store and its bucket, when an upload was cancelled whose first part was on its way."""
    with fake_gcs.serving() as (endpoint, bucket):
        store = gcs_store(endpoint, part_bytes=5 * MIB, upload_concurrency=1)
        bucket.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.upload, KEY, lambda: iter([bytes(MIB)] * 60))
            while not bucket.waiting:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        bucket.gate.set()
        yield store, bucket


async def test_a_cancelled_upload_is_given_up() -> None:
    async with cancelled_upload() as (store, bucket):
        assert await trio.to_thread.run_sync(bucket.aborted.wait, 60)
        assert bucket.objects == {}
        await store.aclose()


async def test_closing_waits_until_a_cancelled_upload_has_taken_its_parts_back() -> None:
    async with cancelled_upload() as (store, bucket):
        await store.aclose()
        assert bucket.aborted.is_set()


@pytest.mark.parametrize("error", [OSError("source"), ValueError("source"), KeyError("source")])
async def test_what_the_iterator_of_an_upload_raises_comes_out_as_it_is(error: Exception) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield from [bytes(MIB)] * size
        raise error

    with fake_gcs.serving() as (endpoint, bucket):
        store = gcs_store(endpoint, part_bytes=5 * MIB)
        for size in (0, 1, 12):
            with pytest.raises(type(error)) as caught:
                await store.upload(KEY, partial(chunks, size))
            assert caught.value is error
            assert not bucket.objects
        if bucket.uploads:
            assert await trio.to_thread.run_sync(bucket.aborted.wait, 60)
        await store.aclose()


async def test_an_upload_whose_last_answer_is_lost_has_an_unknown_outcome() -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
    part: Answer = (200, b"")
    gone: Answer = (404, b"<Error><Code>NoSuchUpload</Code></Error>")
    with answering((200, begun), part, part, "drop", gone) as server:
        options = server.options(max_retries=1, part_bytes=5 * MIB, upload_concurrency=1)
        async with open_store("s3://bucket", options) as store:
            with pytest.raises(StoreUnavailableError, match="NoSuchUpload"):
                await store.upload(KEY, lambda: iter([bytes(MIB)] * 6))


async def test_an_upload_whose_parts_are_refused_is_unavailable() -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
    with answering((200, begun), (500, b"")) as server:
        options = server.options(max_retries=0, part_bytes=5 * MIB)
        async with open_store("s3://bucket", options) as store:
            with pytest.raises(StoreUnavailableError, match=f"upload of '{KEY}'.*500"):
                await store.upload(KEY, lambda: iter([bytes(MIB)] * 30))
        # Parts that were on their way come after it, at times.
        taken_back = [request for request in server.requests if request.startswith("DELETE")]
        assert len(taken_back) == 1 and "uploadId=1" in taken_back[0]


async def test_a_large_put_goes_in_parts(s3: Server) -> None:
    async with open_store(f"{s3.url}/large", s3.options, part_bytes=5 * MIB) as store:
        data = bytes(range(256)) * 4 * 1024 * 11
        info = await store.put(KEY, data)
        assert info.size_bytes == len(data)
        assert await store.get(KEY, len(data) - 5) == (info, data[-5:])


async def test_a_swap_needs_a_tag(s3: Server, gcs: Server) -> None:
    async with open_store(s3.url, s3.options) as store:
        with pytest.raises(ValueError, match="no etag"):
            await store.swap(KEY, b"", ObjectInfo(KEY, 0, None, "version"))
    async with open_store(gcs.url, gcs.options) as store:
        with pytest.raises(ValueError, match="no version"):
            await store.swap(KEY, b"", ObjectInfo(KEY, 0, '"tag"', None))


async def test_objects_beside_the_prefix_are_not_seen(s3: Server) -> None:
    async with open_store(s3.url, s3.options) as whole:
        for key in ("in/side/a", "in/sides/b", "in/side", "in/sid/c"):
            await whole.put(f"beside/{key}", b"")
    async with open_store(f"{s3.url}/beside/in/side", s3.options) as store:
        assert [info.key for info in await store.list_objects("")] == ["a"]
        await store.put("d/e", b"")
        assert await store.list_children("") == ["d"]
        with pytest.raises(ObjectNotFoundError):
            await store.get("b")
