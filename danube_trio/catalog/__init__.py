"""Catalogs: which objects hold a log, and which writer may change that.

`MetadataCatalog` is imported when it is first asked for, because it brings the metadata stores,
which most programs do not use: a sixth of the time that importing the package takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danube_trio._core.manifest import object_parts
from danube_trio._lazy import late_names
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
    __getattr__, __dir__ = late_names(__name__, __all__, {"_danube": ("MetadataCatalog",)})
