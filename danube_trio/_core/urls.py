"""URLs in settings, which end in reprs, errors and log files: a password must not be in one."""

from __future__ import annotations

__all__ = ["check_endpoint", "shown_url"]


def shown_url(url: str) -> str:
    """The URL as an error may show it: what is before an @ may be a password."""
    return repr("..." + url[url.rindex("@") :]) if "@" in url else repr(url)


def check_endpoint(url: str, said: str) -> None:
    """Raise ValueError unless it is an http or https URL without a user or password.

    The text begins with `said`, the name of the setting: ``endpoint=``.
    """
    if "@" in url:
        raise ValueError(
            f"{said}{shown_url(url)} must not have a user or password: there are other settings"
        )
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{said}{url!r} must begin with https:// or http://")
