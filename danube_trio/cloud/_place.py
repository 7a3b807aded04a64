"""Where a bucket is: URLs of object stores, and the library's client for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import attrs
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from danube_trio.cloud._answers import scrub
from danube_trio.cloud._keys import check_prefix
from danube_trio.cloud._options import StoreOptions
from danube_trio.cloud._store import ObjectInfo
from danube_trio.errors import bad_argument

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# With the longest key it fits into the 1024 bytes that S3, Google and Azure allow.
MAX_PREFIX_BYTES = 120
SCHEMES = ("s3", "gs", "az")
# The first pause of the library's own repetitions, and the longest; guesses.
FIRST_BACKOFF = timedelta(milliseconds=100)
LONGEST_BACKOFF = timedelta(seconds=2)


# Google's writes ask for a token even when nothing is to be signed, but not for this account.
_NOBODY = json.dumps(
    {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
)


@attrs.frozen
class Place:
    """A bucket, and the beginning of the keys in it that are ours.

    Attributes:
        below: the prefix with a slash, or "".
    """

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Place:
        """Take a URL apart. ValueError if it is none of an object store."""
        scheme, separator, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if not separator or scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise bad_argument("url", url, f" must begin with one of {known}")
        if not bucket or set("@:?#") & set(bucket):
            raise ValueError(f"{scheme}:// must be followed by the name of a bucket, and no more")
        prefix = prefix.rstrip("/")
        check_prefix(prefix)
        if len(prefix.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"the prefix of {url!r} has more than {MAX_PREFIX_BYTES} bytes")
        return cls(scheme, bucket, prefix)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def below(self) -> str:
        return self.prefix and f"{self.prefix}/"

    def condition_of(self, info: ObjectInfo) -> tuple[str, str | None]:
        """Return the name and the value of what a conditional write compares here."""
        return ("version", info.version) if self.scheme == "gs" else ("etag", info.etag)


def make_client(
    place: Place,
    options: StoreOptions,
    credential_provider: Callable[..., object] | None,
    retries: int,
) -> ObjectStore:
    """Make the library's client. ValueError if it refuses the options."""
    request = timedelta(seconds=options.request_timeout)
    client: ClientConfig = {
        "allow_http": options.allow_http,
        "connect_timeout": timedelta(seconds=options.connect_timeout),
        "timeout": request,
    }
    retry: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": request * (retries + 1),
        "backoff": {"init_backoff": FIRST_BACKOFF, "max_backoff": LONGEST_BACKOFF, "base": 2},
    }
    kinds: dict[str, Any] = {"s3": (S3Store, _s3), "gs": (GCSStore, _gcs), "az": (AzureStore, _az)}
    kind, config = kinds[place.scheme]
    given = {name: value for name, value in config(options).items() if value is not None}
    try:
        made = kind(
            place.bucket,
            config=given,
            client_options=client,
            retry_config=retry,
            credential_provider=credential_provider,
        )
    except (exceptions.BaseError, ValueError) as error:
        text = scrub(error, options.secrets())
        raise ValueError(f"{place.url}: these options make no client: {text}") from error
    return cast("ObjectStore", made)


def _s3(options: StoreOptions) -> dict[str, object]:
    return {
        "endpoint": options.endpoint,
        "region": options.region,
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "session_token": options.session_token,
        "skip_signature": options.anonymous or None,
        "virtual_hosted_style_request": options.virtual_hosted_style or None,
        "conditional_put": "etag",  # whatever the environment says: without it there is no create
        # One object at a time is deleted here, and not every server can do more.
        "disable_bulk_delete": True,
    }


def _gcs(options: StoreOptions) -> dict[str, object]:
    return {
        "base_url": options.endpoint,
        "service_account": options.service_account,
        "service_account_key": _NOBODY if options.anonymous else options.service_account_key,
        "bearer_token": options.bearer_token,
        "skip_signature": options.anonymous or None,
    }


def _az(options: StoreOptions) -> dict[str, object]:
    return {
        "endpoint": options.endpoint,
        "account_name": options.account_name,
        "account_key": options.account_key,
        "sas_key": options.sas_token,
        "skip_signature": options.anonymous or None,
    }
