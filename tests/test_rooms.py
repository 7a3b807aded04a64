"""The shape of the package: which room may know which, and what may touch the machine.

A room is a folder of the package, or one of its public files. Imports point down: from a row to the
rows below it, never to a neighbour in the same row. A new room gets its place here; a new file in a
room needs nothing.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from danube_trio import WalConfig
from danube_trio._core.codec import get_codec
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.wait.waiters import WatchedMarks

PACKAGE = "danube_trio"
ROOT = Path(__file__).parent.parent / PACKAGE
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

ROOMS = (
    ("cli",),
    ("http", "prometheus"),
    ("anyio", "blocking"),
    ("_doors",),
    ("dispatch", "typed"),
    ("face",),
    ("_engine.topics", "_engine.danube", "_engine.thread"),
    ("_engine.care", "_engine.log"),
    ("_engine.read", "testing"),
    ("_engine.files", "_engine.wait", "_engine.watch"),
    ("catalog",),
    ("cloud", "metadata"),
    ("_disk", "config"),
    ("_core",),
    ("errors", "message", "_lazy"),
)
ROW = {room: number for number, row in enumerate(ROOMS) for room in row}
# The package's own name, and the public files beside it that only put names together.
FACE = {"", "_version", "storage", "watch"}

# They share what is beside them, and do not know each other.
TASKS = {f"_engine.log.{task}" for task in ("flusher", "janitor", "uploader", "writer")} | {
    "_engine.files.recover",
    "_engine.read.reader",
}

# Who hands the real disk to a log, a directory or a tool.
KNOW_THE_REAL_DISK = {
    *("cloud._open", "metadata._embedded", "_engine.care.restore", "_engine.log.open"),
    *("_engine.read.follow", "_engine.topics.open"),
}
TOUCHES_FILES = {
    *("_disk/lane.py", "_disk/locks.py", "_disk/real.py"),
    *("_engine/watch/socket.py", "cli/_output.py", "cli/_private_file.py"),
}
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

# Facts that dispatch needs, too, and that are no part of a log: which times count, how long to wait
# before what failed is tried again, what a setting may be, and the one way in for JSON and for
# numbers in texts.
FACTS_OF_ALL = {f"_core.{name}" for name in ("clocks", "numbers", "pauses", "plain", "settings")}

MAX_PUBLIC_NAMES = 40
MAX_ROOT_NAMES = 24


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


def name_in(module: str) -> str:
    """Without the package's own name: `_core.frame`, or "" for the package itself."""
    return module.removeprefix(PACKAGE).removeprefix(".")


def room(module: str) -> str:
    """The room that a module is in: a key of ROW."""
    first, *rest = name_in(module).split(".")
    if first == "_engine" and rest:
        return f"_engine.{rest[0]}"
    return "face" if first in FACE else first


def internal_imports(file: str) -> set[str]:
    """Full names of the package's own modules that a file imports."""
    return {name for name in imports(file) if name.split(".")[0] == PACKAGE}


def circles() -> set[tuple[str, ...]]:
    """Modules that import each other, also by way of others."""
    graph = {module_name(file): internal_imports(file) for file in FILES}

    def reach(module: str) -> set[str]:
        seen: set[str] = set()
        new = {module}
        while new:
            new = {name for each in new for name in graph.get(each, ())} - seen
            seen |= new
        return seen

    reached = {module: reach(module) for module in graph}
    found = {
        tuple(sorted(name_in(other) for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return {circle for circle in found if len(circle) > 1}


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
    if file == "_engine/__init__.py":  # it only says which rooms there are
        assert not list(imports(file))
        return
    own = room(module_name(file))
    assert own in ROW, f"{own!r} is a new room: give it its place in ROOMS"
    others = {room(name) for name in internal_imports(file)} - {own}
    # `_version` is a number: whoever needs it may have it.
    others -= {"face"} if f"{PACKAGE}._version" in internal_imports(file) else set()
    assert not {other for other in others if ROW.get(other, -1) <= ROW[own]}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles()


def test_the_phase_of_a_log_is_assigned_in_one_module() -> None:
    """A dispatch has a life of its own."""
    assigning = {
        file
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and target.attr == "phase"
    }
    assert assigning == {"_core/life.py", "dispatch/_state.py"}


async def test_an_engine_has_few_attributes() -> None:
    marks, config = WatchedMarks(), WalConfig()
    engine = Engine(config, get_codec(config.codec), marks, clock=lambda: 0.0)
    assert len(vars(engine)) <= 15, sorted(vars(engine))


def test_tasks_do_not_know_each_other() -> None:
    tasks = [file for file in FILES if name_in(module_name(file)) in TASKS]
    assert len(tasks) == len(TASKS)
    known = {file: {name_in(name) for name in internal_imports(file)} & TASKS for file in tasks}
    assert not {file: others for file, others in known.items() if others}


@pytest.mark.parametrize("file", FILES)
def test_only_those_who_wire_the_engine_know_the_real_disk(file: str) -> None:
    own = module_name(file)
    may = name_in(own) in KNOW_THE_REAL_DISK or room(own) in {"_disk", "cli"}
    assert may or f"{PACKAGE}._disk.real" not in internal_imports(file)


def test_dispatch_uses_the_public_api_only() -> None:
    """And what everybody who reads bytes from outside uses."""
    files = [file for file in FILES if file.startswith("dispatch/")]
    used = {(file, name_in(name)) for file in files for name in internal_imports(file)}
    assert not {
        (file, name)
        for file, name in used
        if not name.startswith("dispatch")
        and name not in FACTS_OF_ALL
        and any(part[:1] == "_" for part in name.split("."))
    }


@pytest.mark.parametrize("file", [file for file in FILES if file not in TOUCHES_FILES])
def test_only_the_disk_touches_the_file_system(file: str) -> None:
    tree = parse(file)
    harmless = HARMLESS_OS | {f"path.{name}" for name in HARMLESS_OS_PATH}
    assert not set(os_uses(tree)) - harmless
    if not file.startswith("cli/"):  # the tool reads and writes its user's own files
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


def test_the_package_shows_its_rooms_at_a_glance() -> None:
    names = {file.split("/")[0] for file in FILES} - {"__init__.py"}
    assert len(names) <= MAX_ROOT_NAMES


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
