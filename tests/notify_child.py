"""The other process of `test_notify`: a writer that does what it is told, or a follower that tells.

Arguments: ``write`` or ``follow``, and a JSON object. A record's payload is its offset and bytes
that follow from it, so that whoever reads can check it without having been told.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from danube_trio import StartPosition, WalConfig
from danube_trio.blocking import open_follower, open_wal

__all__ = ["config", "payload"]


def config(directory: str) -> WalConfig:
    """A few records in each segment."""
    return WalConfig(dir=directory, segment_bytes=2000, preallocate_bytes=0)


def payload(offset: int) -> bytes:
    """The payload of the record with this offset."""
    return b"%d " % offset * (1 + offset % 30)


def write(given: dict[str, Any]) -> None:
    """Append so many, trim to there, or append without an end, as the lines on stdin say."""
    with open_wal(config(given["dir"])) as wal:
        print("open", wal.start_offset, wal.next_offset, flush=True)
        for line in sys.stdin:
            verb, number = line.split()
            if verb == "append":
                for _ in range(int(number)):
                    wal.append(payload(wal.next_offset))
                print("end", wal.durable_end, flush=True)
            elif verb == "trim":
                print("start", wal.trim(int(number)), flush=True)
            else:
                while True:
                    print("end", wal.append(payload(wal.next_offset)) + 1, flush=True)


def follow(given: dict[str, Any]) -> None:
    """Say each offset that is seen, and by what, in the end."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log %(message)s")
    if given.pop("hide"):
        sys.modules["inotify_simple"] = None  # type: ignore[assignment]  # as if not installed
    count = given.pop("count")
    with open_follower(given.pop("dir"), **given) as follower:
        print("open", follower.start_offset, follower.durable_end, flush=True)
        for message in follower.reader(StartPosition.earliest(), count=count):
            assert message.payload == payload(message.offset)
            print("seen", message.offset, flush=True)
        print("by", follower.statistics().by, flush=True)


if __name__ == "__main__":
    {"write": write, "follow": follow}[sys.argv[1]](json.loads(sys.argv[2]))
