"""Facts about the machine that belong to every measurement. No names of hosts, users or paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3

__all__ = ["machine_facts"]

LIBRARIES = ("danube-trio", "trio", "attrs", "zlib-ng", "lmdb")


def machine_facts(directory: str) -> dict[str, object]:
    """What a reader of the numbers must know; `directory` is where it was measured."""
    return {
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "memory_mib": _memory_mib(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {name: _version(name) for name in LIBRARIES}
        | {"sqlite": sqlite3.sqlite_version},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    """Lines of a file of /proc; none on a system without it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _cpu_model() -> str | None:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return None


def _memory_mib() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _file_system(directory: str) -> str | None:
    """The type of the file system that holds `directory`: that of the longest mount point."""
    path = os.path.realpath(directory)
    best: tuple[int, str] | None = None
    for line in _lines("/proc/self/mounts"):
        _, mounted, kind, *_ = line.split(" ")
        point = mounted.encode().decode("unicode_escape")
        if os.path.commonpath([path, point]) == point and (best is None or len(point) >= best[0]):
            best = (len(point), kind)
    return best[1] if best else None
