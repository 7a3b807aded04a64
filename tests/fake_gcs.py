"""A small Google Cloud Storage: the part of its XML API that the client library uses.

Written because no emulator that can be installed has preconditions on generations. It is strict
where it matters here (conditions are atomic, ETags say nothing about content) and serves plain HTTP
without credentials. It proves what our code sends, not what Google answers.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import attrs

PAGE = 100  # smaller than Google's 1000, so that lists have several
MODIFIED = 1_700_000_000.0


@attrs.frozen
class Stored:
    data: bytes
    generation: int

    @property
    def etag(self) -> str:
        return f'"opaque-{self.generation}"'


@attrs.define(eq=False)
class Bucket:
    """The objects, and the parts of uploads under way. All changes are made under the lock.

    Attributes:
        gate: parts wait for it before they are stored.
        waiting: the numbers of the parts that came to it.
        aborted: set when an upload was given up.
    """

    objects: dict[str, Stored] = attrs.Factory(dict[str, Stored])
    uploads: dict[str, dict[int, bytes]] = attrs.Factory(dict[str, dict[int, bytes]])
    numbers: itertools.count[int] = attrs.Factory(lambda: itertools.count(1_000))
    lock: threading.Lock = attrs.Factory(threading.Lock)
    gate: threading.Event = attrs.Factory(threading.Event)
    waiting: list[int] = attrs.Factory(list[int])
    aborted: threading.Event = attrs.Factory(threading.Event)

    def put(self, key: str, data: bytes, condition: str | None) -> Stored | None:
        """Write it; None if the generation is another one (0: if there is one)."""
        with self.lock:
            found = self.objects.get(key)
            if condition is not None and int(condition) != (found.generation if found else 0):
                return None
            self.objects[key] = Stored(data, next(self.numbers))
            return self.objects[key]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet: with two, each waits 40 ms for the other's receipt
    bucket: Bucket
    open_sockets: set[socket.socket]

    def setup(self) -> None:
        super().setup()
        self.open_sockets.add(self.connection)

    def finish(self) -> None:
        self.open_sockets.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def route(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        return key, query

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.reply(status, f"<Error><Code>{code}</Code></Error>".encode())

    def reply_stored(self, stored: Stored) -> None:
        self.reply(200, ETag=stored.etag, x_goog_generation=str(stored.generation))

    def do_PUT(self) -> None:
        key, query = self.route()
        data = self.body()
        if "uploadId" in query:
            self.bucket.waiting.append(int(query["partNumber"]))
            self.bucket.gate.wait()
            parts = self.bucket.uploads.get(query["uploadId"])
            if parts is None:
                self.fail(404, "NoSuchUpload")
                return
            parts[int(query["partNumber"])] = data
            self.reply(200, ETag=f'"part-{query["partNumber"]}"')
            return
        stored = self.bucket.put(key, data, self.headers.get("x-goog-if-generation-match"))
        if stored is None:
            self.fail(412, "PreconditionFailed")
        else:
            self.reply_stored(stored)

    def do_POST(self) -> None:
        key, query = self.route()
        self.body()
        if "uploads" in query:
            upload = f"upload-{next(self.bucket.numbers)}"
            self.bucket.uploads[upload] = {}
            text = f"<UploadId>{upload}</UploadId>"
            text = f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>"
            self.reply(200, text.encode())
            return
        parts = self.bucket.uploads.pop(query["uploadId"])
        data = b"".join(data for _, data in sorted(parts.items()))
        stored = self.bucket.put(key, data, None)
        assert stored is not None
        text = f"<ETag>{escape(stored.etag)}</ETag>"
        text = f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>"
        generation = str(stored.generation)
        self.reply(200, text.encode(), ETag=stored.etag, x_goog_generation=generation)

    def do_DELETE(self) -> None:
        key, query = self.route()
        if "uploadId" in query:
            self.bucket.uploads.pop(query["uploadId"], None)
            self.bucket.aborted.set()
            self.reply(204)
            return
        with self.bucket.lock:
            found = self.bucket.objects.pop(key, None)
        if found is None:
            self.fail(404, "NoSuchKey")
        else:
            self.reply(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self.route()
        if not key:
            self.list_objects(query)
            return
        stored = self.bucket.objects.get(key)
        if stored is None:
            self.fail(404, "NoSuchKey")
            return
        data, headers, status = stored.data, {}, 200
        wanted = self.headers.get("Range")
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                self.fail(416, "InvalidRange")
                return
            headers = {"Content_Range": f"bytes {start}-{end - 1}/{len(data)}"}
            data, status = data[start:end], 206
        headers |= {"ETag": stored.etag, "x_goog_generation": str(stored.generation)}
        headers |= {"Last_Modified": formatdate(MODIFIED, usegmt=True)}
        self.reply(status, data, **headers)

    def list_objects(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("continuation-token", ""), query.get("start-after", ""))
        with self.bucket.lock:
            objects = dict(self.bucket.objects)
        entries: dict[str, str] = {}
        for key in sorted(objects):
            if not key.startswith(prefix):
                continue
            head, found, _ = key.removeprefix(prefix).partition(delimiter or "\0")
            name = f"{prefix}{head}{delimiter}" if delimiter and found else key
            if name <= after or name in entries:
                continue
            if len(entries) == PAGE:
                break
            entries[name] = describe(name, None if name != key else objects[key])
        text = "".join(entries.values())
        if len(entries) == PAGE:
            text += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(max(entries))}"
            text += "</NextContinuationToken>"
        self.reply(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())


def describe(name: str, stored: Stored | None) -> str:
    if stored is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    return (
        f"<Contents><Key>{escape(name)}</Key><Generation>{stored.generation}</Generation>"
        f"<LastModified>2023-11-14T22:13:20.000Z</LastModified><ETag>{escape(stored.etag)}</ETag>"
        f"<Size>{len(stored.data)}</Size></Contents>"
    )


@contextmanager
def serving() -> Generator[tuple[str, Bucket]]:
    """Serve an empty bucket in a thread; gives the base URL and the bucket."""
    bucket = Bucket()
    bucket.gate.set()
    sockets: set[socket.socket] = set()
    handler = type("BoundHandler", (Handler,), {"bucket": bucket, "open_sockets": sockets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False  # so that closing waits for all of them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bucket
    finally:
        bucket.gate.set()
        server.shutdown()
        for connection in list(sockets):  # clients keep theirs open
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join()
