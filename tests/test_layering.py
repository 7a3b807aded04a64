"""The shape of the package: what may import what, and what may touch the machine.

Every module has a rank. Imports point down, or sideways within one rank; the tasks, which share a
rank, do not know each other. A new module gets its rank here.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "danube_trio"
ROOT = Path(__file__).parent.parent / PACKAGE
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

TASKS = {"_writer", "_flusher", "_uploader", "_janitor", "_reader", "_recover"}
# By the first part of a module's name; "" is danube_trio/__init__.py, the public names.
RANKS = {
    **dict.fromkeys(("_core", "_version", "config", "errors", "message"), 0),
    **dict.fromkeys(
        ("_disk", "_inotify", "_lane", "_waiters", "_leaving", "cloud", "metadata", "catalog"), 1
    ),
    "_running": 1,
    # plain code over the Disk interface, and what readers need
    **dict.fromkeys(("_directory", "_segment_io", "_tail", "_fetch", "_source", "_encode"), 1),
    **dict.fromkeys(("_set_aside", "_pins", "_tier", "_decode", "_read_only"), 1),
    **dict.fromkeys(("_shared_lanes", "_topic_names"), 1),
    **dict.fromkeys(("_watch", "_watch_socket"), 1),
    # the tasks, and the state that they share
    **dict.fromkeys(("_engine", "_cloud_side", "_accept", "_statistics", *TASKS), 2),
    **dict.fromkeys(("_wal", "_readable", "_poller", "_attach", "_stores", "_watch_offer"), 3),
    **dict.fromkeys(("_observe", "_verify", "_verify_segment"), 3),
    **dict.fromkeys(("_repair", "_repair_heal", "_repair_plan", "_repair_scan"), 3),
    **dict.fromkeys(("_restore_files", "_restore_plan", "_verify_objects"), 3),
    # a directory of Danube's own, as plain code over the Disk interface
    **dict.fromkeys(("_danube_dir", "_danube_frames", "_danube_order"), 3),
    **dict.fromkeys(("_danube_source", "_danube_survey"), 3),
    # they wire it all to the real disk
    **dict.fromkeys(("_open", "_follow", "_replica", "_restore"), 4),
    **dict.fromkeys(("storage", "_open_storage", "_import"), 5),
    **dict.fromkeys(("_topics", "_topic", "_topic_door", "_topic_host"), 5),
    **dict.fromkeys(("_topic_delete", "_topic_list"), 5),
    **dict.fromkeys(("_held", "_host", "_jobs", "_line"), 5),  # the engine's thread, for the doors
    "watch": 5,
    "": 6,
    **dict.fromkeys(("dispatch", "anyio", "blocking", "testing", "typed"), 7),
    **dict.fromkeys(("cli", "prometheus"), 8),
}

MAY_IMPORT_DISK = {
    *("_open", "_follow", "_replica", "_restore", "_open_storage"),
    *("storage", "testing", "cli"),
}
OPENERS = {"cloud/_open.py", "metadata/_embedded.py"}  # the doors of what has a directory
TOUCHES_FILES = {"_disk.py", "_lane.py", "_watch_socket.py"}
FILE_MODULES = {"fcntl", "glob", "mmap", "pathlib", "shutil", "tempfile"}
# What is left of `os` for everyone else: nothing that asks or changes the file system.
HARMLESS_OS = {
    "PathLike",
    "environ",
    "fsdecode",
    "fspath",
    "getpid",
    "path",
    "register_at_fork",
    "urandom",
}
HARMLESS_OS_PATH = {"abspath", "basename", "dirname", "join", "normpath", "split", "splitext"}

NOT_IN_CORE = {
    *("anyio", "asyncio", "trio"),
    *("concurrent", "multiprocessing", "queue", "select", "signal", "threading"),
    *("io", "os", "random", "secrets", "socket", "subprocess", "sys", "time"),
    *FILE_MODULES,
}

MAX_LINES = 400
MAX_PUBLIC_NAMES = 40


def parse(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=file)


def module_name(file: str) -> str:
    """`_core/frame.py` is `danube_trio._core.frame`, `_core/__init__.py` is `danube_trio._core`."""
    parts = [PACKAGE, *file.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports(file: str) -> Iterator[str]:
    """Absolute names of the modules that a file imports, also lazily or for type checking only."""
    package = module_name(file).split(".")
    if not file.endswith("__init__.py"):
        package.pop()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                ours = source.split(".")[0] == PACKAGE
                yield inner if ours and is_module(inner) else source


def part(module: str) -> str:
    """The part of the package that a module belongs to: a key of RANKS."""
    return [*module.split("."), ""][1]


def internal_imports(file: str) -> set[str]:
    own = part(module_name(file))
    parts = {part(name) for name in imports(file) if name.split(".")[0] == PACKAGE}
    return parts if own == "" else parts - {own}


def os_uses(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name):
                yield name
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="os"), attr="path"), attr=name
            ):
                yield f"path.{name}"
            case ast.ImportFrom(module="os", names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module="os.path", names=names):
                yield from (f"path.{alias.name}" for alias in names)
            case _:
                pass


def calls_open(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
        for node in ast.walk(tree)
    )


def declarations(tree: ast.Module) -> set[ast.AST]:
    """The methods of Protocol classes: they say what others implement, and do nothing."""
    return {
        method
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("Protocol" in ast.unparse(base) for base in node.bases)
        for method in node.body
    }


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str) -> None:
    own = part(module_name(file))
    assert own in RANKS, f"{file} has no rank yet: give {own!r} one in RANKS"
    above = {name for name in internal_imports(file) if RANKS.get(name, 99) > RANKS[own]}
    assert not above


def test_tasks_do_not_know_each_other() -> None:
    tasks = [file for file in FILES if part(module_name(file)) in TASKS]
    known = {file: internal_imports(file) & TASKS for file in tasks}
    assert not {file: others for file, others in known.items() if others}


@pytest.mark.parametrize("file", FILES)
def test_only_those_who_wire_the_engine_know_the_real_disk(file: str) -> None:
    may = file in OPENERS or part(module_name(file)) in MAY_IMPORT_DISK
    assert may or "_disk" not in internal_imports(file)


def test_dispatch_uses_the_public_api_only() -> None:
    files = [file for file in FILES if part(module_name(file)) == "dispatch"]
    assert not [
        (file, name) for file in files for name in internal_imports(file) if name[:1] == "_"
    ]


@pytest.mark.parametrize("file", [file for file in FILES if file not in TOUCHES_FILES])
def test_only_the_disk_touches_the_file_system(file: str) -> None:
    tree = parse(file)
    harmless = HARMLESS_OS | {f"path.{name}" for name in HARMLESS_OS_PATH}
    assert not set(os_uses(tree)) - harmless
    if part(module_name(file)) != "cli":  # the tool reads and writes its user's own files
        assert not {name.split(".")[0] for name in imports(file)} & FILE_MODULES
        assert not calls_open(tree)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("_core/")])
def test_the_core_has_no_clock_no_chance_and_no_io(file: str) -> None:
    tree = parse(file)
    assert not {name.split(".")[0] for name in imports(file)} & NOT_IN_CORE
    assert not calls_open(tree)
    suspending = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    found = {node for node in ast.walk(tree) if isinstance(node, suspending)} - declarations(tree)
    assert not [f"{file}:{node.lineno}" for node in found]


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_too_long_to_read(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES


def test_everything_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[^\w-]", spec)[0] for group in groups for spec in group}
    known = sys.stdlib_module_names | {PACKAGE} | {name.replace("-", "_") for name in declared}
    used = {(file, name.split(".")[0]) for file in FILES for name in imports(file)}
    assert not {(file, name) for file, name in used if name not in known}


def test_the_public_names_are_few() -> None:
    names = [
        ast.literal_eval(node.value)
        for file in FILES
        if file == "__init__.py"
        for node in parse(file).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert all(len(exported) < MAX_PUBLIC_NAMES for exported in names)
