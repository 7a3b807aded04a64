"""URLs in settings, which end in reprs, errors and log files: a password must not be in one."""

from __future__ import annotations


def shown_url(url: str) -> str:
    """The URL as an error may show it: what is before an @ may be a password."""
    return repr("..." + url[url.rindex("@") :]) if "@" in url else repr(url)


def endpoint_fault(url: str) -> str | None:
    """What is wrong with it, unless it is an http or https URL without a user or password."""
    if "@" in url:
        return "must not have a user or password: there are other settings"
    if not url.startswith(("http://", "https://")):
        return "must begin with https:// or http://"
    return None
