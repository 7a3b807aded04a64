"""Where webhooks may go: which URLs, and which addresses.

Whoever makes a subscription has this server send requests, and the server stands where they do not:
beside databases, behind a firewall, in a cloud whose metadata answers to everybody inside. So a URL
is refused unless all of this holds.

- A pattern of the settings names it. A pattern is ``scheme://host[:port][/path]``; a ``*`` in one
  of these parts is any text in that part, so what is in one never reaches into the next. Without a
  port it is the scheme's own, without a path any path.
- It is written plainly: no user, no fragment, no ``..``, no number that only some read as an
  address. What two programs could read differently is refused, not interpreted.
- It is ``https``. ``http`` is for this machine only: for ``localhost``, ``127.x.x.x`` and
  ``[::1]``, if a pattern names exactly that host.
- The addresses that its name has *when it is sent* are public, every one. Of a name for this
  machine they are loopback, every one. The connection is made to an address that was looked at, and
  not to the name again, so nothing is gained by a name that changes what it says.

The last rule is for sending; the others are for making a subscription, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import attrs

# What all browsers take.
MAX_URL_CHARACTERS = 2048
PORTS = {"https": 443, "http": 80}

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[1-9][0-9]{{0,4}}))?"
    r"(?P<path>/[!$-;=?-\[\]_a-z~]*)?",
    re.ASCII | re.IGNORECASE,
)
_PATTERN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.*-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]+|\*))?"
    r"(?P<path>/[!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
# Behind these an IPv4 address stands in an IPv6 one: 64:ff9b::/96 is a translator's (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")
_TRANSLATED_HERE = IPv6Network("64:ff9b:1::/48")


@attrs.frozen
class Target:
    """A URL that a webhook may go to.

    Attributes:
        host: in lower case; of an IPv6 address without the brackets.
        path: with the query.
        local: whether it must be this machine.
    """

    scheme: str
    host: str
    port: int
    path: str
    local: bool

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@attrs.frozen
class Allowed:
    """A pattern of the settings."""

    scheme: str
    host: re.Pattern[str]
    port: re.Pattern[str]
    path: re.Pattern[str]
    local: bool

    @classmethod
    def of(cls, text: str) -> Allowed:
        """Read a pattern. ValueError says what is wrong with it."""
        found = _PATTERN.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} must be a pattern of URLs, such as https://worker.example/*"
            )
        scheme, host = found["scheme"].lower(), found["host"].lower()
        local = "*" not in host and is_local(host.strip("[]"))
        if scheme == "http" and not local:
            raise ValueError(
                f"{text!r}: http is for this machine only, as http://localhost:8000/*; "
                f"others must be https"
            )
        port = found["port"] or str(PORTS[scheme])
        path = found["path"] or "/*"
        return cls(scheme, _wild(host.strip("[]")), _wild(port), _wild(path), local)

    def has(self, target: Target) -> bool:
        """Whether it names this URL."""
        return (
            self.scheme == target.scheme
            and self.local == target.local
            and self.host.fullmatch(target.host) is not None
            and self.port.fullmatch(str(target.port)) is not None
            and self.path.fullmatch(target.path) is not None
        )


def _wild(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))))


def target_of(url: str, patterns: Iterable[str]) -> Target:
    """The target that a URL names. ValueError says why no webhook may go there."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARACTERS else None
    if found is None:
        raise ValueError("it is no plain https:// URL, with a host, and no user or fragment")
    scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
    port, path = int(found["port"] or PORTS[scheme]), found["path"] or "/"
    if port > 0xFFFF or _DOTS.search(path.partition("?")[0]):
        raise ValueError("its port or its path is none that a URL should have")
    address = literal(host)
    if address is None and (":" in host or _NUMBER.fullmatch(host)):
        raise ValueError("its host is a number that is no address")
    target = Target(scheme, host, port, path, is_local(host))
    if not target.local:
        if scheme != "https":
            raise ValueError("it must be https")
        if address is not None and not is_public(address):
            raise ValueError("its address is not a public one")
        if host.endswith((".localhost", ".local", ".internal")):
            raise ValueError("its host is a name of a local network")
    if not any(Allowed.of(pattern).has(target) for pattern in patterns):
        raise ValueError("no pattern in the server's setting `webhooks` names it")
    return target


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is written as, if it is one."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_local(host: str) -> bool:
    """Whether a host is this machine, by its name alone."""
    address = literal(host)
    return host == "localhost" if address is None else address.is_loopback


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the public internet, as is every one that it may stand for."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address.teredo is not None or address in _TRANSLATED_HERE or address.is_site_local:
        return False
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _TRANSLATED:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def check_addresses(target: Target, addresses: Sequence[str]) -> None:
    """ValueError unless the target may be all of these addresses."""
    for text in addresses:
        address = ip_address(text.partition("%")[0])
        if not (address.is_loopback if target.local else is_public(address)):
            # Which one it is is not said: the answer would be a map of the network.
            what = "this machine" if target.local else "the public internet"
            raise ValueError(f"an address of its host is not one of {what}")
