"""Stores may be used in an ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from danube_trio.errors import StoreUnavailableError


class Closing(ABC):
    """Closes itself at the end of an ``async with`` block. A closed store refuses every call."""

    _closed = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, for people."""

    def check_open(self) -> None:
        """Raise StoreUnavailableError if it was closed."""
        if self._closed:
            raise StoreUnavailableError(
                f"the store {self.url} was closed; nothing was done: open it again, and leave it "
                f"open as long as a log uses it"
            )

    @abstractmethod
    async def aclose(self) -> None:
        """Give up what it holds; idempotent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
