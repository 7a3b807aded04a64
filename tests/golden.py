"""The golden vectors: bytes as Danube's Rust crates write them, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from danube_trio.message import MessageID, StreamMessage

_LINES = Path(__file__).with_name("golden.tsv").read_text(encoding="ascii").splitlines()

GOLDEN: Final = {name: bytes.fromhex(data) for name, data in (line.split("\t") for line in _LINES)}

# The name of the era in the vectors -> our name of the layout.
CODEC_OF: Final = {
    "seed": "s1-legacy",
    "s1-standard": "s1-standard",
    "v0.5.0": "s2-legacy",
    "v0.5.1": "s2-standard",
    "v0.6.0": "s3-standard",
    "v0.12.0": "s5-standard",
    "s5-legacy": "s5-legacy",
}
OFFSET: Final = 70000


def sample(codec: str) -> StreamMessage:
    """The message of the `msg/` and `frame/` vectors, as far as the layout can hold it."""
    schema = int(codec[1])
    return StreamMessage(
        payload=b"hello",
        request_id=1,
        msg_id=MessageID(300, "/default/orders", "127.0.0.1:6650", OFFSET),
        publish_time=1758383000123,
        producer_name="p1",
        attributes={"k": "v"},
        schema_id=5 if schema >= 3 else None,
        schema_version=2 if schema >= 3 else None,
        routing_key="eu" if schema >= 5 else None,
    )


def empty(_codec: str) -> StreamMessage:
    """The message of the `msg-empty/` vectors, which every layout can hold."""
    return StreamMessage(msg_id=MessageID(topic_name="t", broker_addr="b"), producer_name="p")
