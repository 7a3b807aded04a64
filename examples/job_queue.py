"""A durable job queue whose workers crash. Usage: job_queue.py DIR [JOBS]

Stores jobs in a topic and gives them to worker processes. Workers die in the middle of a job, some
jobs kill every worker that tries them. Every job is done in the end, except those, which are among
the dead letters. Kill this program too and run it again: it goes on.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import trio

from danube_trio import WalConfig, WalStorage, open_wal
from danube_trio.dispatch import (
    FileStorage,
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
    SubscriptionType,
    TopicCache,
)
from danube_trio.metadata import open_metadata_directory

WORKERS = 3
OPTIONS = SubscriptionOptions(
    type=SubscriptionType.SHARED,
    max_redeliveries=3,
    backoff_initial=0.05,
    backoff_max=0.5,
    poison_policy=PoisonPolicy.DEAD_LETTER,
)


class WorkerDiedError(Exception):
    """The worker process ended before its job did."""


class Worker:
    """A worker process: a line in is a job, a line out is its result."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> Worker:
        """Start the process."""
        command = [sys.executable, __file__, "--worker"]
        pipe = subprocess.PIPE
        return cls(await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe))

    async def do(self, job: bytes) -> bytes:
        """Have a job done. Raises WorkerDiedError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        result = b""
        try:
            await self._process.stdin.send_all(job + b"\n")
            while not result.endswith(b"\n"):
                chunk = await self._process.stdout.receive_some()
                if not chunk:
                    break
                result += chunk
        except trio.BrokenResourceError:
            pass  # it died before it had read the job
        if not result.endswith(b"\n"):
            raise WorkerDiedError(f"worker {self._process.pid} died")
        return result.strip()

    async def stop(self) -> None:
        """End the process, also one that died."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            assert self._process.stdin is not None and self._process.stdout is not None
            await self._process.stdin.aclose()
            await self._process.stdout.aclose()


async def work(subscription: Subscription, crashes: list[int]) -> None:
    """Take jobs and have them done by a process, and by another one when it died."""
    while True:
        worker = await Worker.start()
        try:
            while True:
                async with subscription.take() as job:  # leaving it: done; an exception: again
                    await worker.do(job.payload)
        except WorkerDiedError:
            crashes[0] += 1
        finally:
            await worker.stop()


async def main(directory: str, jobs: int) -> None:
    """Store the jobs, unless that was done, and have them done."""
    async with (
        open_metadata_directory(os.path.join(directory, "metadata")) as metadata,
        open_wal(WalConfig(dir=os.path.join(directory, "dead"))) as dead,
        ReliableDispatch(
            "/default/jobs",
            ReliableOptions(),
            TopicCache(FileStorage(os.path.join(directory, "topics"))),
            metadata=metadata,
            dead_letter_storage=WalStorage.from_wal(dead),
        ) as dispatch,
    ):
        if not await dispatch.topic_store.current_offset():
            await dispatch.store_batch(
                [b"poison" if number % 25 == 10 else b"%d" % number for number in range(jobs)]
            )
        subscription = await dispatch.add_subscription("workers", OPTIONS)
        crashes = [0]
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(work, subscription, crashes)
            await subscription.wait_settled()
            nursery.cancel_scope.cancel()
        counted = await subscription.statistics()
        print(f"{counted.acked} jobs done, {crashes[0]} workers died")
        async for letter in dead.reader(end="current"):
            offset, why = letter.attributes["x-original-offset"], letter.attributes
            print(f"dead: job {offset} {why['x-failure-count']} times: {why['x-failure-reason']}")


def be_a_worker() -> None:
    """Do jobs, and die of some of them."""
    chance = random.Random()
    for line in sys.stdin:
        if line == "poison\n" or chance.random() < 0.05:
            os.kill(os.getpid(), signal.SIGKILL)
        print(int(line) ** 2, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        be_a_worker()
    elif len(sys.argv) in (2, 3):
        trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 60)
    else:
        sys.exit(__doc__)
