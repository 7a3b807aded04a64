"""Catalogs: which objects hold a log, and which writer may change that."""

from danube_trio._core.manifest import object_parts
from danube_trio.catalog._base import Catalog, fresh, new_object_id
from danube_trio.catalog._danube import MetadataCatalog
from danube_trio.catalog._manifests import ManifestCatalog
from danube_trio.catalog._retry import Backoff
from danube_trio.catalog._session import CatalogSession, acquire

__all__ = [
    "Backoff",
    "Catalog",
    "CatalogSession",
    "ManifestCatalog",
    "MetadataCatalog",
    "acquire",
    "fresh",
    "new_object_id",
    "object_parts",
]
