"""Catalogs: which objects hold a log, and which writer may change that.

`MetadataCatalog` is imported when it is first asked for, because it brings the metadata stores,
which most programs do not use: a sixth of the time that importing the package takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio._core.manifest import object_parts
from danube_trio.catalog._base import Catalog, fresh, new_object_id
from danube_trio.catalog._fencing import CatalogSession, acquire
from danube_trio.catalog._manifests import ManifestCatalog
from danube_trio.catalog._retry import Backoff, Outage, look_twice

if TYPE_CHECKING:
    from danube_trio.catalog._danube import MetadataCatalog

__all__ = [
    "Backoff",
    "Catalog",
    "CatalogSession",
    "ManifestCatalog",
    "MetadataCatalog",
    "Outage",
    "acquire",
    "fresh",
    "look_twice",
    "new_object_id",
    "object_parts",
]


if not TYPE_CHECKING:  # type checkers would take it as leave to use any name

    def __getattr__(name: str) -> object:
        if name == "MetadataCatalog":
            from danube_trio.catalog._danube import MetadataCatalog

            return MetadataCatalog
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
