"""What takes more than one request: uploads in parts, and lists in pages. Run in threads.

Between its steps each looks whether it was given up: nobody waits for it once its caller was
cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any

import obstore

from danube_trio.cloud._keys import Chunks, as_bytes
from danube_trio.cloud._options import StoreOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obstore import ObjectMeta, PutResult
    from obstore.store import ObjectStore

# As many as servers give in one page.
LIST_PAGE = 1000

# Its lists can also be Arrow tables, whose types are in a package that is not needed here.
_lists: Any = obstore


class SourceError(Exception):
    """The iterator of an upload raised `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class AbandonedError(Exception):
    """Nobody waits for the upload any more. Raised into the library, so that it gives up."""


class UploadJob:
    """One upload. What fits into one part is put by one request, and all else in parts."""

    def __init__(
        self, client: ObjectStore, path: str, chunks: Chunks, options: StoreOptions
    ) -> None:
        self._client, self._path = client, path
        self._chunks, self._options = chunks, options
        self._error: BaseException | None = None
        self.wanted = True
        self.begun = False
        self.ended = threading.Event()
        self.size_bytes = 0

    def run(self) -> PutResult:
        """Do it. Raises SourceError for what the iterator raised, and the library's errors."""
        self.begun = True
        try:
            source = self._source()
            beginning: list[bytes] = []
            for chunk in source:
                beginning.append(chunk)
                if self.size_bytes > self._options.part_bytes:
                    return self._in_parts(chain(_given_away(beginning), source))
            data = b"".join(beginning)
            return obstore.put(self._client, self._path, data, use_multipart=False)
        except BaseException:
            if self._error is not None:
                raise SourceError(self._error) from None
            raise
        finally:
            self.ended.set()

    def _in_parts(self, source: Iterable[bytes]) -> PutResult:
        return obstore.put(
            self._client,
            self._path,
            source,
            use_multipart=True,
            chunk_size=self._options.part_bytes,
            max_concurrency=self._options.upload_concurrency,
        )

    def _source(self) -> Iterator[bytes]:
        """The chunks, counted; and an error if nobody wants them any more."""
        try:
            for chunk in self._chunks():
                if not self.wanted:
                    raise AbandonedError
                data = as_bytes(chunk)
                self.size_bytes += len(data)
                yield data
        except GeneratorExit:
            raise  # the library wants no more of them, for a reason of its own
        except BaseException as error:
            self._error = error
            raise


def _given_away(chunks: list[bytes]) -> Iterator[bytes]:
    """Yield the chunks without keeping them."""
    chunks.reverse()
    while chunks:
        yield chunks.pop()


def list_all(
    client: ObjectStore, prefix: str | None, after: str | None, given_up: threading.Event
) -> list[ObjectMeta]:
    """Return what the server lists, in its order, page after page."""
    pages: Iterable[Sequence[ObjectMeta]] = _lists.list(
        client, prefix, offset=after, chunk_size=LIST_PAGE
    )
    return [meta for page in takewhile(lambda _: not given_up.is_set(), pages) for meta in page]


def list_prefixes(client: ObjectStore, prefix: str | None) -> list[str]:
    """Return the paths one level below the prefix that have more below them."""
    result: dict[str, Sequence[str]] = _lists.list_with_delimiter(client, prefix)
    return list(result["common_prefixes"])
