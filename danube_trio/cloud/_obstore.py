"""S3, Google Cloud Storage and Azure Blob Storage, over obstore.

obstore's asynchronous functions need an asyncio loop; its plain ones let go of the interpreter's
lock. So each call runs in a thread, counted by a limiter of the store's own.

**Cancelling** abandons the thread: the call returns at once, the request goes on, and nobody knows
how it ends. (An upload is told to stop: its parts are given up before the object exists, unless it
was just being completed.)

**Retries** by the library are a convenience for requests that may be repeated. A repeated `create`
whose first answer was lost finds its own object in the way, so these requests are made by a second
client that never repeats anything: StoreUnavailableError then says honestly that nobody knows.

**Conditions** are the tag on S3 and Azure and the generation on Google. A conditional write is
always one request: multipart uploads with a condition have several winners on some servers.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import obstore
import trio

from danube_trio._disk.threads import Threads
from danube_trio.cloud import _answers
from danube_trio.cloud._closing import Closing
from danube_trio.cloud._jobs import SourceError, UploadJob, list_all, list_prefixes
from danube_trio.cloud._keys import (
    Chunks,
    as_bytes,
    check_key,
    check_prefix,
    check_range,
    is_key,
    safe_offset,
    start_of,
)
from danube_trio.cloud._options import StoreOptions
from danube_trio.cloud._place import Place, make_client
from danube_trio.cloud._store import ObjectInfo
from danube_trio.errors import (
    AccessDeniedError,
    DanubeError,
    ObjectNotFoundError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutMode, UpdateVersion

T = TypeVar("T")
# An upload takes its thread for long, and must not keep readers from theirs.
UPLOAD_THREADS = 4
# How long closing waits until uploads that were cancelled have taken their parts back. A guess.
GIVING_UP_SECONDS = 2.0


class ObstoreStore(Closing):
    """A `CloudStore` in a bucket of S3 or Google, or a container of Azure.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``; the prefix
            may be missing. Keys are below it.
        options: how to reach it.
        credential_provider: obstore's kind of callable that gives credentials, for those that
            neither `options` nor the environment can give.

    Raises:
        ValueError: there is no such kind of store, or the library refuses the options.
    """

    def __init__(
        self,
        url: str,
        options: StoreOptions | None = None,
        *,
        credential_provider: Callable[..., object] | None = None,
    ) -> None:
        self._place = Place.parse(url)
        self._options = options or StoreOptions()
        make = partial(make_client, self._place, self._options, credential_provider)
        self._client = make(self._options.max_retries)
        self._client_once = make(0)
        self._given_up: list[UploadJob] = []  # cancelled, and not ended yet
        self._threads = Threads(self._options.concurrency, "danube-trio object store threads")
        self._upload_threads = Threads(UPLOAD_THREADS, "danube-trio object store uploads")

    def __repr__(self) -> str:
        return f"<ObstoreStore {self.url}>"

    @property
    def url(self) -> str:
        return self._place.url

    @property
    def can_swap(self) -> bool:
        return True

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        data = as_bytes(data)
        if len(data) > self._options.part_bytes:
            return await self.upload(key, partial(iter, [data]))
        return await self._put("put", key, data, "overwrite")

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        return await self._put("create", key, as_bytes(data), "create")

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        check_key(key)
        name, tag = self._place.condition_of(expected)
        if tag is None:
            raise ValueError(f"expected has no {name}: describe the object with head() or get()")
        condition: UpdateVersion = {"version": tag} if name == "version" else {"e_tag": tag}
        return await self._put("swap", key, as_bytes(data), condition)

    async def _put(self, call: str, key: str, data: bytes, mode: PutMode) -> ObjectInfo:
        client = self._client if mode == "overwrite" else self._client_once
        put = partial(obstore.put, client, self._path(key), data, mode=mode, use_multipart=False)
        result = await self._run(call, key, put)
        return ObjectInfo(key, len(data), result["e_tag"], result["version"])

    async def upload(self, key: str, chunks: Chunks) -> ObjectInfo:
        check_key(key)
        job = UploadJob(self._client, self._path(key), chunks, self._options)
        cancelled = True
        try:
            result = await self._run("upload", key, job.run, upload=True)
            cancelled = False
        except Exception as failure:
            cancelled = False
            if isinstance(failure, SourceError):
                raise failure.error from failure.error.__cause__
            raise
        finally:
            job.wanted = False
            if cancelled and job.begun:
                self._given_up = [j for j in (*self._given_up, job) if not j.ended.is_set()]
        return ObjectInfo(key, job.size_bytes, result["e_tag"], result["version"])

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        check_key(key)
        check_range(start, end)
        if end == start:
            return await self._nothing_of(key, start)
        found = await self._run("get", key, partial(self._get, key, start, end))
        if isinstance(found, Exception):
            # Servers refuse to send no bytes at all, and each says so in its own way.
            info, data = await self._nothing_of(key, start)
            if start < info.size_bytes:
                raise self._meaning("get", key, found) from found
            return info, data
        info, data = found
        stop = info.size_bytes if end is None else min(end, info.size_bytes)
        if len(data) != stop - start:
            raise StoreUnavailableError(
                f"{self.url}: get of {key!r}: {len(data)} bytes came of [{start}, {stop})"
            )
        return info, data

    async def _nothing_of(self, key: str, start: int) -> tuple[ObjectInfo, bytes]:
        info = await self.head(key)
        start_of(key, start, info.size_bytes)
        return info, b""

    def _get(self, key: str, start: int, end: int | None) -> tuple[ObjectInfo, bytes] | Exception:
        """Returns the error if the range that was asked for is none of the object, it seems."""
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        try:
            result = obstore.get(self._client, self._path(key), options=options)
            return self._info(result.meta), bytes(result.bytes())
        except _answers.LIBRARY_ERRORS as error:
            if options and _answers.is_range_error(error):
                return error
            raise

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        head = partial(obstore.head, self._client, self._path(key))
        return self._info(await self._run("head", key, head))

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        beginning = check_prefix(prefix)
        offset = safe_offset(beginning, after)
        begin = self._path(offset) if is_key(offset) else None
        given_up = threading.Event()
        call = partial(list_all, self._client, self._path(prefix) or None, begin, given_up)
        try:
            found = await self._run("list", prefix, call)
        finally:
            given_up.set()
        infos = [self._info(meta) for meta in found if meta["path"].startswith(self._place.below)]
        infos = [info for info in infos if info.key.startswith(beginning) and info.key > after]
        if not found:
            await self._check_that_it_lists(prefix)
        return sorted(infos, key=lambda info: info.key)

    async def list_children(self, prefix: str) -> list[str]:
        beginning = self._place.below + check_prefix(prefix)
        call = partial(list_prefixes, self._client, self._path(prefix) or None)
        paths = await self._run("list", prefix, call)
        if not paths:
            await self._check_that_it_lists(prefix)
        return sorted(path.removeprefix(beginning) for path in paths if path.startswith(beginning))

    async def _check_that_it_lists(self, prefix: str) -> None:
        """StoreUnavailableError if it says that an object exists that nobody has made.

        The library takes any XML for a list without objects: the page of a proxy, say, which is
        the answer to everything then.
        """
        key = f"{prefix or 'danube-probes'}/danube-no-such-object-{secrets.token_hex(8)}"
        try:
            await self.head(key)
        except ObjectNotFoundError:
            return
        except AccessDeniedError:  # who may list need not be allowed to look
            return
        raise StoreUnavailableError(
            f"{self.url}: list of {prefix!r}: what answers is no object store, since it has an "
            f"object that nobody has made; is there a proxy in between?"
        )

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._run("delete", key, partial(self._delete, self._path(key)))

    def _delete(self, path: str) -> None:
        try:
            obstore.delete(self._client, path)
        except FileNotFoundError as error:
            if _answers.names_no_bucket(error):
                raise

    async def aclose(self) -> None:
        self._closed = True
        # Their threads end with the process, and the server would keep the parts for good.
        with trio.move_on_after(GIVING_UP_SECONDS, shield=True):
            for job in self._given_up:
                wait = partial(job.ended.wait, GIVING_UP_SECONDS)
                await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        await trio.lowlevel.checkpoint()

    # -- how calls go to the library

    def _path(self, key: str) -> str:
        """The path in the bucket of a key, or of a prefix; that of "" has no slash at its end."""
        return f"{self._place.below}{key}" if key else self._place.prefix

    def _info(self, meta: ObjectMeta) -> ObjectInfo:
        return ObjectInfo(
            meta["path"].removeprefix(self._place.below),
            meta["size"],
            meta["e_tag"],
            meta["version"],
            meta["last_modified"].timestamp(),
        )

    async def _run(self, call: str, key: str, fn: Callable[[], T], *, upload: bool = False) -> T:
        """Run `fn` in a thread, and say what the library's errors mean for this call."""
        self.check_open()
        threads = self._upload_threads if upload else self._threads
        try:
            return await threads.run(fn, abandon=True)
        except _answers.LIBRARY_ERRORS as error:
            raise self._meaning(call, key, error) from error

    def _meaning(self, call: str, key: str, error: Exception) -> DanubeError | ValueError:
        secrets = self._options.secrets()
        return _answers.meaning(error, call=call, url=self.url, key=key, secrets=secrets)
