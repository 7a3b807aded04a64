"""How to reach an etcd cluster: the settings of `EtcdMetadata`."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

import attrs

from danube_trio._core.urls import endpoint_fault, shown_url


def _as_tuple(urls: str | Iterable[str]) -> tuple[str, ...]:
    return (urls,) if isinstance(urls, str) else tuple(urls)


def _check_positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be above 0 seconds, got {value!r}")


@attrs.frozen
class EtcdConfig:
    """How to reach an etcd cluster, version 3.4 or later. Times are in seconds.

    Attributes:
        endpoints: client URLs of its members, without user or password; the next one is tried
            when one fails.
        username: for authentication; None uses none.
        password: for authentication.
        ca_file: certificates to trust instead of the system's, a PEM file.
        cert_file: this client's certificate, a PEM file.
        key_file: its key; None if `cert_file` has it.
        connect_timeout: how long making one connection may take.
        request_timeout: how long one call to one endpoint may take.
        watch_retry: how long a watch tries to connect again before it gives up.
        watch_silence: after how long without a word a watch connects again. etcd says something
            every ten minutes; lost machines are noticed sooner, by TCP.
    """

    endpoints: tuple[str, ...] = attrs.field(
        default=("http://127.0.0.1:2379",), converter=_as_tuple
    )
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = attrs.field(default=None, repr=False)
    connect_timeout: float = attrs.field(default=2.0, validator=_check_positive)
    request_timeout: float = attrs.field(default=5.0, validator=_check_positive)
    watch_retry: float = attrs.field(default=30.0, validator=_check_positive)
    watch_silence: float = attrs.field(default=900.0, validator=_check_positive)

    def __attrs_post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("endpoints is empty: give one client URL at least")
        for url in self.endpoints:
            if (fault := endpoint_fault(url)) is not None:
                raise ValueError(f"endpoints has {shown_url(url)} {fault}")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together: one of them is None")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError(f"key_file={self.key_file!r} needs a cert_file")

    def tls(self) -> ssl.SSLContext | bool:
        """The context for https, or False if there is none."""
        if not any(url.startswith("https://") for url in self.endpoints):
            return False
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context
