"""A page for people: what the topics of a storage do, and what is in them.

`Page` is an ASGI callable. It serves a few static files, and below ``_/`` the data that they show.
It looks and reads only, but for one thing: redriving dead letters, which needs admin rights.

Rules:

- **Looking keeps nothing open.** The figures of a topic are those of the moment while it is open,
  and the last ones that were seen when it is not. Reading its messages opens it, and holds it no
  longer than one answer takes: a live tail looks whether there is more, and reads only then. So no
  topic stays open because somebody left a page open.
- **Looking makes nothing.** A topic that is not there is a 404, and is not made by asking for it.
- **The engine comes first.** All pages share one look at the topics, and after each there is a rest
  of many times what it took. What one answer may read, hold and take is bounded by `PageConfig`.
- **Nobody who watches is waited for.** A live answer that is not taken ends, and so does one that
  has lasted long; the page asks again if somebody still looks at it.
- **Each row is somebody's.** What may be seen is asked of the rights for every topic, in every
  answer.
"""

from danube_trio.http._page.app import Page
from danube_trio.http._page.config import PageConfig
from danube_trio.http._page.shown import (
    EVERYTHING,
    ShownStream,
    ShownSubscription,
    StreamList,
    topic_path,
)

__all__ = [
    "EVERYTHING",
    "Page",
    "PageConfig",
    "ShownStream",
    "ShownSubscription",
    "StreamList",
    "topic_path",
]
