"""Settings of object stores: plain values that a user may keep in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from danube_trio._core.urls import endpoint_fault, shown_url
from danube_trio.errors import Advice, Argument, Worded, bad_argument

MIB = 1 << 20

_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _between(low: float, high: float, *, whole: bool = False) -> _Validator:
    kinds = int if whole else (int, float)

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"{field.name}={value!r} must be a {'whole ' * whole}number")
        if not low <= value <= high:
            raise ValueError(f"{field.name}={value!r} must be between {low} and {high}")

    return check


def _flag(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field.name}={value!r} must be true or false")


def _text(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        shown = "***" if field.name in SECRETS else repr(value)
        what = " must be a text that is not empty, or left out"
        raise ValueError(Worded(Argument(field.name, shown), what))


def _optional_text() -> Any:
    return attrs.field(default=None, validator=_text)


def _secret() -> Any:
    return attrs.field(default=None, validator=_text, repr=lambda value: "***" if value else "None")


# Never shown: not in a repr, not in an error.
SECRETS = frozenset(
    {
        "account_key",
        "bearer_token",
        "sas_token",
        "secret_access_key",
        "service_account_key",
        "session_token",
    }
)


@attrs.frozen(kw_only=True)
class StoreOptions:
    """How to reach an object store. What is left out comes from the environment.

    Credentials that are given nowhere are looked for where the provider's own tools look: variables
    like ``AWS_ACCESS_KEY_ID``, the metadata service of the machine, a web identity, and so on.

    Attributes:
        endpoint: the URL of the server, if it is not the provider's own.
        region: S3's region.
        access_key_id, secret_access_key, session_token: credentials of S3.
        service_account: the path of a Google service account's file.
        service_account_key: the content of one.
        bearer_token: a token of Google's OAuth, used as it is.
        account_name, account_key, sas_token: credentials of Azure.
        anonymous: send no credentials.
        allow_http: also talk to an `endpoint` without TLS.
        virtual_hosted_style: S3's bucket is part of the host name.
        connect_timeout: seconds to reach the server.
        request_timeout: seconds for one request with all its bytes, also those of a part.
        max_retries: how often a request that changes nothing by being repeated is repeated by
            itself; a `create` or `swap` never is, because its own first try would be in its way.
        part_bytes: an object larger than this is uploaded in parts of this size.
        upload_concurrency: parts of one upload under way at a time. An upload holds about
            ``part_bytes * (upload_concurrency + 1)`` bytes.
        concurrency: requests of one store under way at a time; each has a thread.
    """

    endpoint: str | None = _optional_text()
    region: str | None = _optional_text()
    access_key_id: str | None = _optional_text()
    secret_access_key: str | None = _secret()
    session_token: str | None = _secret()
    service_account: str | None = _optional_text()
    service_account_key: str | None = _secret()
    bearer_token: str | None = _secret()
    account_name: str | None = _optional_text()
    account_key: str | None = _secret()
    sas_token: str | None = _secret()
    anonymous: bool = attrs.field(default=False, validator=_flag)
    allow_http: bool = attrs.field(default=False, validator=_flag)
    virtual_hosted_style: bool = attrs.field(default=False, validator=_flag)
    connect_timeout: float = attrs.field(default=5.0, validator=_between(0.01, 600))
    request_timeout: float = attrs.field(default=30.0, validator=_between(0.01, 3600))
    max_retries: int = attrs.field(default=3, validator=_between(0, 100, whole=True))
    # S3 refuses parts below 5 MiB, and more than 10,000 of them.
    part_bytes: int = attrs.field(default=8 * MIB, validator=_between(5 * MIB, 1 << 30, whole=True))
    upload_concurrency: int = attrs.field(default=4, validator=_between(1, 64, whole=True))
    concurrency: int = attrs.field(default=16, validator=_between(1, 1024, whole=True))

    def __attrs_post_init__(self) -> None:
        endpoint = self.endpoint
        if endpoint is None:
            return
        if (fault := endpoint_fault(endpoint)) is not None:
            raise ValueError(Worded(Argument("endpoint", shown_url(endpoint)), f" {fault}"))
        if endpoint.startswith("http://") and not self.allow_http:
            raise bad_argument("endpoint", endpoint, " is not encrypted: ", Advice.ENCRYPT)

    @classmethod
    def from_plain(cls, data: Mapping[str, object]) -> StoreOptions:
        """Make options from plain data. ValueError that names the field, also for unknown ones."""
        values: dict[str, Any] = dict(data)
        unknown = sorted(set(values) - {field.name for field in attrs.fields(cls)})
        if unknown:
            raise ValueError(f"a store has no option {', '.join(unknown)}")
        return cls(**values)

    def to_plain(self) -> dict[str, object]:
        """Return what differs from the defaults as plain data, secrets included."""
        plain = attrs.asdict(self)
        return {name: value for name, value in plain.items() if value != _DEFAULTS[name]}

    def secrets(self) -> list[str]:
        """Return the values that must not be shown."""
        values = (getattr(self, name) for name in sorted(SECRETS))
        return [value for value in values if value]


_DEFAULTS = attrs.asdict(StoreOptions())
