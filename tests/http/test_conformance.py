"""The protocol's own conformance suite, which nobody here wrote, finds nothing.

It runs whole, with the cases on subscriptions, for which it starts receivers of webhooks on
127.0.0.1. With kills, the server dies by SIGKILL between any two groups of cases and comes back on
the same directory and port.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from node import HERE, judges
from programs import SERVERS, Served
from serving import serving

CASES = 338
GROUPS = 46
LONG_POLL_SECONDS = 0.5
CASE_MS = 20_000
# It takes 20 s where nothing else runs.
SUITE_SECONDS = 600

pytestmark = pytest.mark.timeout(SUITE_SECONDS + 60)


@contextmanager
def answering(post: Callable[[], None]) -> Generator[str]:
    """An address; a POST there runs the function, and is answered when that has returned."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                post()
                status, text = 200, ""
            except Exception as error:  # it is told, and fails the case that waits for it
                status, text = 500, str(error)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def judge(folder: Path, **environment: str) -> list[dict[str, Any]]:
    """Run the suite: its report of each case."""
    node = judges()
    report = folder / "report.json"
    vitest = HERE / "node_modules/vitest/vitest.mjs"
    command: list[str | Path] = [node.command, vitest, "run", "conformance.test.mjs"]
    command += ["--reporter=json", f"--outputFile={report}", f"--testTimeout={CASE_MS}"]
    with (folder / "vitest.log").open("wb") as log:
        done = subprocess.run(
            command,
            cwd=HERE,
            env=node.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=SUITE_SECONDS,
            check=False,
        )
    assert report.exists(), (done.returncode, (folder / "vitest.log").read_text()[-4000:])
    [file] = json.loads(report.read_text())["testResults"]
    assert file["assertionResults"], file["message"]
    cases: list[dict[str, Any]] = file["assertionResults"]
    return cases


def expect_no_finding(cases: list[dict[str, Any]], complaints: str) -> None:
    """Every case passed, and there are as many as there should be."""
    found = [
        f"{case['fullName']}: {'; '.join(case['failureMessages'])[:600] or case['status']}"
        for case in cases
        if case["status"] != "passed"
    ]
    if found:
        pytest.fail(
            f"{len(found)} of {len(cases)} cases:\n"
            + "\n".join(found)
            + f"\nthe server says: {complaints[-4000:] or 'nothing'}",
            pytrace=False,
        )
    assert len(cases) == CASES


@pytest.mark.parametrize("kind", SERVERS)
def test_the_conformance_suite_finds_nothing(kind: str, tmp_path: Path) -> None:
    with Served(kind, tmp_path, LONG_POLL_SECONDS) as server:
        cases = judge(tmp_path, DS_URL=server.url)
    expect_no_finding(cases, server.complaints())


def test_the_conformance_suite_finds_nothing_in_the_command(tmp_path: Path) -> None:
    options = ("--long-poll", LONG_POLL_SECONDS, "--origin", "*")
    webhooks = ("--webhook", "http://127.0.0.1:*", "--webhook", "http://127.0.0.1:*/*")
    with serving(tmp_path / "data", *options, *webhooks) as server:
        cases = judge(tmp_path, DS_URL=server.urls[0])
        complaints = server.stop()
    expect_no_finding(cases, complaints)


def test_the_conformance_suite_finds_nothing_while_the_server_is_killed_between_its_groups(
    tmp_path: Path,
) -> None:
    with (
        Served("hypercorn", tmp_path, LONG_POLL_SECONDS) as server,
        answering(server.restart) as control,
    ):
        cases = judge(tmp_path, DS_URL=server.url, DS_CONTROL=control)
    expect_no_finding(cases, server.complaints())
    assert server.kills >= GROUPS
