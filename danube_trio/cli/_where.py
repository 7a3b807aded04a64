"""Where a log is in an object store, as the options say it, and opening what they name."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from danube_trio.cli._values import TOPICS, VARIABLE

if TYPE_CHECKING:
    from danube_trio.catalog import Catalog
    from danube_trio.cloud import CloudStore, StoreOptions
    from danube_trio.metadata import MetadataStore


@attrs.frozen
class Corner:
    """An open store, and the places in it.

    Attributes:
        metadata: where the catalogs are, or None: in the store itself.
        prefix, topic: of the log; one of them is "".
    """

    store: CloudStore
    metadata: MetadataStore | None
    prefix: str
    topic: str

    def catalog(self) -> Catalog:
        """The catalog of the log."""
        from danube_trio._core.topic_names import topic_path
        from danube_trio.catalog import ManifestCatalog, MetadataCatalog
        from danube_trio.catalog._patient import PatientStore

        if self.metadata is not None:
            return MetadataCatalog(self.metadata, self.topic)
        store = PatientStore(self.store)
        if self.prefix:
            return ManifestCatalog(store, self.prefix)
        prefix = f"{TOPICS}/{topic_path(self.topic)}"
        return ManifestCatalog(store, prefix, topic=self.topic)


def _stripped(prefix: str) -> str:
    return prefix.strip("/")


@attrs.frozen
class Where:
    """What the options say.

    Attributes:
        url: of the store; "" if there is none.
        explicit: it was given on the command line, and not only in the environment.
    """

    url: str
    explicit: bool
    options: tuple[tuple[str, str], ...]
    options_file: str | None
    prefix: str = attrs.field(converter=_stripped)
    topic: str
    metadata: str

    @property
    def names_log(self) -> bool:
        """A log in the store is named."""
        return bool(self.prefix or self.topic)

    def wanted(self, directory: str | None) -> bool:
        """Whether to use the store, beside a directory or instead of it.

        A store in the environment alone is not meant for a command that has all it needs. Raises
        ValueError that says what is missing.
        """
        if directory is not None and not self.names_log and not self.explicit:
            if self.metadata or self.options or self.options_file:
                self._missing("--store, which the other options are about")
            return False
        if not self.url:
            what = "DIR or --store" if directory is None else "--store"
            self._missing(f"{what} (or the variable {VARIABLE})")
        self.check_log()
        return True

    def check_log(self) -> None:
        """ValueError unless a store and exactly one log in it are named."""
        if not self.url:
            self._missing(f"--store (or the variable {VARIABLE})")
        if self.prefix and self.topic:
            raise ValueError("--prefix and --topic exclude each other: both say where the log is")
        if not self.names_log:
            self._missing("--topic /NAMESPACE/NAME or --prefix, which says where the log is in it")
        if self.metadata and not self.topic:
            self._missing("--topic, because --metadata knows logs by it")

    def check_there(self) -> None:
        """FileNotFoundError if the store is a directory, and it is missing.

        Of a bucket nobody knows whether it is empty or the wrong one.
        """
        from urllib.parse import unquote

        from danube_trio.errors import Worded

        path = unquote(self.url.removeprefix("file://"))
        if self.url.startswith("file:///") and not Path(path).is_dir():
            what = Worded("there is no such directory: is that the right --store?")
            raise FileNotFoundError(errno.ENOENT, what, self.url)

    def _missing(self, what: str) -> None:
        raise ValueError(f"missing: {what}")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[Corner]:
        """Open the store, and the metadata store if there is one.

        Raises ValueError for bad options, also when a package is missing; StoreUnavailableError
        and AccessDeniedError from the metadata store.
        """
        from danube_trio._disk.real import RealDisk
        from danube_trio.cloud import open_store

        if self.url == "memory:":
            raise ValueError("--store memory: is a new and empty store: name one that stays")
        disk = RealDisk()
        async with contextlib.AsyncExitStack() as stack:
            with _package_hint():
                opened = open_store(self.url, self._options(), disk=disk)
            store: CloudStore = await stack.enter_async_context(opened)
            metadata = None
            if self.metadata:
                from danube_trio.metadata import open_etcd

                config = _etcd_config(self.metadata)
                with _package_hint():
                    metadata = await stack.enter_async_context(open_etcd(config))
            yield Corner(store, metadata, self.prefix, self.topic)

    def _options(self) -> StoreOptions | None:
        from danube_trio.cloud import StoreOptions

        plain: dict[str, object] = _read_options(self.options_file) if self.options_file else {}
        for name, text in self.options:
            plain[name] = _typed(name, text)
        return StoreOptions.from_plain(plain) if plain else None


@contextlib.contextmanager
def _package_hint() -> Any:
    """A missing package is a matter of usage; the text says what to install."""
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        raise ValueError(str(error)) from error


def _etcd_config(url: str) -> Any:
    """``etcd://host:port,host:port``; etcds:// with TLS. Name and password from the environment."""
    from danube_trio._core.urls import shown_url
    from danube_trio.metadata import EtcdConfig

    scheme, separator, rest = url.partition("://")
    schemes = {"etcd": "http", "etcds": "https"}
    hosts = [host for host in rest.strip("/").split(",") if host]
    if not separator or scheme not in schemes or not hosts or "@" in rest:
        raise ValueError(
            f"--metadata must look like etcd://host:2379,other:2379 (with TLS: etcds://), "
            f"not {shown_url(url)}"
        )
    return EtcdConfig(
        endpoints=tuple(f"{schemes[scheme]}://{host}" for host in hosts),
        username=os.environ.get("DANUBE_ETCD_USERNAME"),
        password=os.environ.get("DANUBE_ETCD_PASSWORD"),
    )


# ---- options of the store


def _read_options(path: str) -> dict[str, object]:
    with open(path, "rb") as file:
        data = file.read()
    try:
        if path.endswith(".toml"):
            import tomllib

            fields: Any = tomllib.loads(data.decode())
        else:
            from danube_trio._core.plain import from_json

            fields = from_json(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: the options must be an object with a field for each")
    return dict(cast("dict[str, object]", fields))


def _typed(name: str, text: str) -> object:
    """The value of an option, of the type that its field has; what does not fit is refused there.

    Secrets stay texts, and in no error.
    """
    from danube_trio.cloud import StoreOptions

    kinds = {field.name: field.type for field in attrs.fields(attrs.resolve_types(StoreOptions))}
    kind = kinds.get(name)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return int(text) if kind is int else float(text)
    return text
