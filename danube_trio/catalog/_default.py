"""What `open_wal`, `open_replica` and `restore_log` do with a store before they use it."""

from __future__ import annotations

import errno
import weakref

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import CODECS
from danube_trio._core.frame import TRAILER_VERSION
from danube_trio._core.topic_names import topic_path
from danube_trio.catalog import Backoff, Catalog, ManifestCatalog
from danube_trio.catalog._patient import PatientStore, latest_state
from danube_trio.cloud import CloudStore, probe_store
from danube_trio.config import WalConfig
from danube_trio.errors import UnsupportedFormatError

# Of each request of a catalog, which tries again by itself what takes several. A guess.
EACH_REQUEST = Backoff(attempts=3)
# Not beside other objects: the probe lists what is there.
PROBES = "danube-probes"

_probed: weakref.WeakSet[CloudStore] = weakref.WeakSet()


def default_catalog(config: WalConfig, store: CloudStore) -> Catalog:
    """Manifests in the store itself, under the log's prefix.

    Raises ValueError if neither prefix nor topic is given, or the topic is not
    ``/namespace/topic``: a mistyped one would begin another log.
    """
    prefix = config.cloud.prefix
    if not prefix and config.topic_name:
        prefix = f"storage/topics/{topic_path(config.topic_name)}"
    if not prefix:
        raise ValueError(
            "cloud.prefix='' and topic_name='': one of them must say where in the store the log "
            "is, because two logs in one place take it from one another"
        )
    patient = PatientStore(store, EACH_REQUEST)
    return ManifestCatalog(patient, prefix, topic=config.topic_name)


async def probe_once(store: CloudStore) -> None:
    """Refuse a store that lets two writers create the same object; ask each store object once."""
    if store not in _probed:
        await probe_store(PatientStore(store), prefix=PROBES)
        _probed.add(store)


async def readable_state(catalog: Catalog) -> CatalogState:
    """The newest state of a log that is there, in a format that this version reads.

    Raises FileNotFoundError: there is no log, or not yet, or it was deleted;
    UnsupportedFormatError; and what `Catalog.latest` raises.
    """
    # Twice: a list that is wrongly empty once says nothing.
    state = await latest_state(catalog) or await latest_state(catalog)
    if state is None or state.deleted:
        gone = "was deleted" if state is not None else "is not there (yet)"
        raise FileNotFoundError(errno.ENOENT, f"the log {gone}", catalog.url)
    if state.codec not in CODECS or state.trailer != TRAILER_VERSION:
        raise UnsupportedFormatError(
            catalog.url,
            f"the codec {state.codec!r} with the trailer {state.trailer} is unknown",
            "Open it with the version that wrote it, or a later one",
        )
    return state
