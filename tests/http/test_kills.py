"""The server is killed again and again under the official clients, and everything is there once.

Producers of JavaScript and of Python append to two streams, some of them several batches at a time,
and send again what was not answered. Readers follow both streams all the while. In the end each
producer's messages are there from the first to the last, each once and in order, and everybody who
read has read the same: nothing that was acknowledged is lost, nothing is there twice.

The moments are random: after so many acknowledgements, as soon as it listens, while it opens its
directory. `DANUBE_HTTP_KILLS` is the number of kills (default 3), `DANUBE_HTTP_SEED` what the
randomness follows from (default 1).
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import queue
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from node import HERE, judges
from programs import SERVERS, Program, Served

if importlib.util.find_spec("durable_streams") is None:
    pytest.skip("durable-streams is not installed", allow_module_level=True)
import durable_streams
import httpx

KILLS = int(os.environ.get("DANUBE_HTTP_KILLS", "3"))
SEED = os.environ.get("DANUBE_HTTP_SEED", "1")
STREAMS = {"kills/of-json": "application/json", "kills/of-bytes": "application/octet-stream"}
LANGUAGES = ("js", "py")
PRODUCERS = 4  # of each language
# The clients themselves give up when the server is away for 60 s; the test is later, and says less.
HEAR_SECONDS = 90

pytestmark = pytest.mark.timeout(120 + 30 * KILLS)

Numbered = tuple[str, int]


def request(server: Served, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, f"/v1/stream/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def producers_of(language: str) -> list[dict[str, object]]:
    """Half of them of JSON; the two of each kind are different ones in Python."""
    streams = list(STREAMS)
    return [
        {"id": f"{language}-{place}", "stream": streams[place // 2], "json": place < 2}
        for place in range(PRODUCERS)
    ]


class Writers:
    """The programs that append."""

    def __init__(self, server: Served, folder: Path) -> None:
        self.acked: Counter[str] = Counter()
        self.repeated = 0
        self.sent: dict[str, int] = {}
        self._lines: queue.Queue[str | Program] = queue.Queue()
        node = judges()
        commands: dict[str, list[str | Path]] = {
            "js": [node.command, HERE / "producers.mjs"],
            "py": [sys.executable, HERE / "producers_child.py"],
        }
        self.programs = [
            Program(
                [*commands[language], self._order(server, language)],
                folder / f"{language}.log",
                node.environment(),
                self._lines,
            )
            for language in LANGUAGES
        ]

    def _order(self, server: Served, language: str) -> str:
        producers = producers_of(language)
        return json.dumps({"url": server.url, "seed": SEED, "producers": producers})

    def _hear(self) -> None:
        what, name, *rest = self.programs[0].hear(HEAR_SECONDS, "word of an append").split()
        if what == "acked":
            self.acked[name] += 1
            self.repeated += rest == ["204"]
        else:
            assert what == "sent", (what, name, rest)
            self.sent[name] = int(rest[0])

    def wait_acked(self, more: int) -> None:
        """Until that many more were acknowledged from now on."""
        while not self._lines.empty():
            self._hear()
        wanted = self.acked.total() + more
        while self.acked.total() < wanted:
            self._hear()

    def stop(self) -> None:
        """Let each producer end what it has begun, and hear how much it sent."""
        for program in self.programs:
            program.tell("stop")
        while len(self.sent) < len(LANGUAGES) * PRODUCERS:
            self._hear()
        for program in self.programs:
            program.wait(HEAR_SECONDS)

    def kill(self) -> None:
        for program in self.programs:
            program.kill()


def numbered(json_text: bytes, *, is_json: bool) -> list[Numbered]:
    """Whose message each one is, and its number."""
    if is_json:
        return [(each["id"], each["number"]) for each in json.loads(json_text)]
    lines = [line.split(b" ") for line in json_text.splitlines()]
    assert all(set(padding) <= {ord("x")} for _, _, padding in lines)
    return [(id.decode(), int(number)) for id, number, _ in lines]


def expect_each_once(found: Iterable[Numbered], sent: dict[str, int]) -> None:
    """Each producer's messages, from the first to the last, in order."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for name, number in found:
        numbers[name].append(number)
    assert set(numbers) <= set(sent)
    wrong = [
        f"{name} sent {count}: {what}"
        for name, count in sent.items()
        if (what := difference(numbers[name], count))
    ]
    assert not wrong, "\n".join(wrong)


def difference(numbers: Sequence[int], count: int) -> str:
    """What is wrong with a producer's messages; empty if nothing is."""
    if numbers == list(range(count)):
        return ""
    times = Counter(numbers)
    lost = [number for number in range(count) if number not in times]
    doubled = [number for number, often in times.items() if often > 1]
    if lost or doubled or len(times) != count:
        return f"{len(lost)} lost {lost[:20]}, {len(doubled)} doubled {doubled[:20]}"
    place = next(place for place, number in enumerate(numbers) if number != place)
    return f"out of order from {place} on: {numbers[place : place + 20]}"


def read_by_python(server: Served, path: str, *, is_json: bool) -> bytes:
    """All of a stream, as the official Python client reads it; JSON as a text again.

    Not with its ``live=False``: then what reads everything ends after the first answer, also when
    that one does not say that it is the whole.
    """
    with (
        httpx.Client(timeout=60) as client,
        durable_streams.stream(f"{server.url}/v1/stream/{path}", client=client) as response,
    ):
        return json.dumps(response.read_json()).encode() if is_json else response.read_bytes()


def readers_of(server: Served, folder: Path) -> Program:
    """The program that follows each stream, in both ways; it reads when this returns."""
    readers = [
        {"stream": path, "json": kind == "application/json", "live": live, "file": str(file)}
        for path, kind in STREAMS.items()
        for live in ("sse", "long-poll")
        for file in [folder / f"{path.rpartition('/')[2]}.{live}"]
    ]
    node = judges()
    program = Program(
        [node.command, HERE / "readers.mjs", json.dumps({"url": server.url, "readers": readers})],
        folder / "readers.log",
        node.environment(),
    )
    for _ in readers:
        program.hear_word("reading", HEAR_SECONDS)
    return program


@pytest.mark.happens
@pytest.mark.parametrize("kind", SERVERS)
def test_nothing_that_an_official_client_was_told_is_lost_or_there_twice(
    kind: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED}/{kind}")
    with Served(kind, tmp_path) as server:
        for path, content_type in STREAMS.items():
            status, text = request(server, "PUT", path, {"content-type": content_type})
            assert status == 201, text
        writers = Writers(server, tmp_path)
        try:
            with readers_of(server, tmp_path) as readers:
                while server.kills < KILLS:
                    writers.wait_acked(rng.choice([0, 1, rng.randrange(30), rng.randrange(300)]))
                    server.kill()
                    while server.kills < KILLS and rng.random() < 0.2:
                        server.open()
                        server.kill()
                    server.start()
                writers.wait_acked(30)
                writers.stop()
                for path, content_type in STREAMS.items():
                    closing = {"content-type": content_type, "stream-closed": "true"}
                    status, text = request(server, "POST", path, closing)
                    assert status == 204, text
                breaks = [readers.hear_word("closed", HEAR_SECONDS) for _ in range(4)]
                readers.wait(HEAR_SECONDS)
        finally:
            writers.kill()
        for path, content_type in STREAMS.items():
            is_json = content_type == "application/json"
            found = numbered(read_by_python(server, path, is_json=is_json), is_json=is_json)
            sent = {n: count for n, count in writers.sent.items() if (n[-1] in "01") == is_json}
            expect_each_once(found, sent)
            for live in ("sse", "long-poll"):
                given = (tmp_path / f"{path.rpartition('/')[2]}.{live}").read_bytes()
                assert numbered(given, is_json=is_json) == found, (path, live)
    print(  # noqa: T201
        f"{server.kills} kills; {sum(writers.sent.values())} messages in {writers.acked.total()}"
        f" batches, {writers.repeated} of JavaScript were repeated; readers broken off: {breaks}"
    )
    assert not server.complaints()
