"""Names of a package that are imported when they are first used: a program pays for what it uses.

::

    if TYPE_CHECKING:
        from package._inside import Name

    __all__ = ["Name"]

    if not TYPE_CHECKING:  # type checkers would take it as leave to use any name
        __getattr__, __dir__ = late_names(__name__, __all__, {"_inside": ("Name",)})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

__all__ = ["late_names"]


def late_names(
    package: str, shown: list[str], homes: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        shown: all that it shows.
        homes: which names are late, and in which of its modules.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home_of[name]}"), name)
        setattr(import_module(package), name, value)  # the next time it is simply there
        return value

    return get, lambda: shown
