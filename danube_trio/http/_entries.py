"""What the metadata store has of a stream: one document, written when the stream is made.

Everything that changes with an append is in the log itself; see `_writers`. So a document changes
when a stream is deleted and its forks still need it, and now and then when a time to live begins
anew.

==============================  ====================================================================
key, below ``<root>/http/``     is there
==============================  ====================================================================
``streams/<canonical path>``    as long as the path has a stream, or forks need its data
``trash/<id>``                  while a topic may hold something that no stream needs: from before
                                its first record until the stream is published, and from the
                                stream's end until the topic is deleted
``writers/<id>``                as a note of what the log says up to some offset: see `_writers`
==============================  ====================================================================
"""

from __future__ import annotations

import attrs

FORMAT = 1


@attrs.frozen
class Origin:
    """Where a fork comes from.

    Attributes:
        path, topic: of the stream that it was forked from.
        asked: the offset that was asked for; None: the end there was.
        sub: the sub-offset that was asked for.
    """

    path: str
    topic: str
    asked: int | None
    sub: int


@attrs.frozen
class Entry:
    """The document of a stream.

    Attributes:
        path: canonical.
        topic: that holds its own records.
        content_type: as it was given when it was made.
        created_at: seconds since 1970.
        base: the offset of its topic's first record, as the stream counts; what is before it is
            inherited.
        ttl: seconds, or None.
        expires_at: an RFC 3339 time, as it was given, or None.
        renewed_at: when its time to live began anew, as far as that was written down; seconds since
            1970.
        origin: None for a stream that is no fork.
        deleted: it was deleted, or has expired, and forks need its data.
        format: of the document.
    """

    path: str
    topic: str
    content_type: str
    created_at: float
    base: int = 0
    ttl: int | None = None
    expires_at: str | None = None
    renewed_at: float = 0.0
    origin: Origin | None = None
    deleted: bool = False
    format: int = FORMAT
