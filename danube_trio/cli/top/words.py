"""Numbers, sizes, durations and bars as text."""

from __future__ import annotations

import math

EIGHTHS = "▏▎▍▌▋▊▉█"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def amount(value: float | None) -> str:
    """A count, with commas."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if math.isfinite(value) else "more"


def size(value: float | None) -> str:
    """Bytes, in the unit that fits."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "more"
    unit = 0
    while abs(value) >= 1024 and unit + 1 < len(UNITS):
        value /= 1024
        unit += 1
    return f"{value:,.0f} {UNITS[unit]}" if unit == 0 else f"{value:,.1f} {UNITS[unit]}"


def duration(value: float | None) -> str:
    """Seconds, in the unit that fits."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "longer"
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.1f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def per_second(value: float | None, name: str = "") -> str:
    """A rate; `name` is of what, which says the unit."""
    if value is None:
        return "-"
    if name.endswith("bytes"):
        return f"{size(value)}/s"
    return f"{value:,.1f}/s" if 0 < value < 100 else f"{value:,.0f}/s"


def in_unit(name: str, value: float | None) -> str:
    """A value, in the unit that its name says."""
    if name.endswith("bytes"):
        return size(value)
    return duration(value) if name.endswith("seconds") else amount(value)


def bar(part: float, cells: int, *, fancy: bool) -> str:
    """A bar of this part (0 to 1) of so many cells; anything above nothing can be seen."""
    if part <= 0:
        return ""
    if not fancy:
        return "#" * max(1, round(min(part, 1.0) * cells))
    eighths = max(1, round(min(part, 1.0) * cells * 8))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (EIGHTHS[rest - 1] if rest else "")


def clean(value: object) -> str:
    """Text of a program, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
