"""Catalogs: which objects hold a log, and which writer may change that."""

from danube_trio.catalog._base import Catalog, fresh

__all__ = ["Catalog", "fresh"]
