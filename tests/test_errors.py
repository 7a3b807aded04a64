"""Errors as values: they come out of a pool of processes, and of a copy, with what they know."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import danube_trio
from danube_trio import StreamMessage, WalConfig, errors
from danube_trio._core.bincode import DecodeError
from danube_trio._engine.files.presence import LostFileError
from danube_trio.blocking import open_wal
from danube_trio.dispatch import CursorTooLargeError, SubscriptionBusyError, SubscriptionClosedError
from danube_trio.errors import DanubeError
from danube_trio.testing import ProcessKilledError
from danube_trio.typed import Problem, SchemaError, UnknownSchemaError, UnknownVersionError

PROBLEMS = [Problem("lines[2].price", "is missing"), Problem("", "is no object")]
MESSAGE = StreamMessage(b"payload", attributes={"a": "b"}, routing_key="k", offset=7)

SAMPLES: list[BaseException] = [
    errors.LogClosedError("it is closed"),
    errors.LogBrokenError("the disk is full", lost=3),
    errors.LogLockedError("/logs/a/wal.lock", "process 12"),
    errors.CorruptDataError("bad CRC", path="a/wal.log", position=7, offset=8, advice="Restore it"),
    errors.CorruptDataError("bad CRC"),
    errors.OffsetTrimmedError(3, 5),
    errors.FencedError(4, "process 12"),
    errors.StoreError("no"),
    errors.StoreUnavailableError("not now"),
    errors.ObjectNotFoundError("no a/b"),
    errors.PreconditionFailedError("there is one"),
    errors.AccessDeniedError("no"),
    errors.DishonestStoreError("it lies"),
    errors.WatchLostError("too old"),
    errors.MessageTooLargeError(11, 10, "max_message_bytes"),
    errors.UnexpectedOffsetError(3, 4),
    errors.UnsupportedFormatError("a/wal.meta", "format 9", "Take a newer version"),
    SubscriptionClosedError("it is closed"),
    SubscriptionBusyError("mail", "worker 1"),
    CursorTooLargeError(1024, 99),
    SchemaError(PROBLEMS, "order", MESSAGE),
    UnknownSchemaError(PROBLEMS, "order", MESSAGE),
    UnknownVersionError(PROBLEMS, "order"),
    ProcessKilledError("/sim/wal.log"),
    # These are of no public module, and get out all the same.
    errors.bad_argument("offset", 3, " is beyond the end: ", errors.Advice.WAIT_AT_END),
    LostFileError("/logs/wal.log", "was removed", 7),
    DecodeError(3, "it ends", 8),
]


def public_errors() -> Iterator[type[BaseException]]:
    """Every exception class that some public module shows."""
    for info in pkgutil.walk_packages(danube_trio.__path__, "danube_trio."):
        parts = info.name.split(".")[1:]
        if parts[0] == "cli" or any(part.startswith("_") for part in parts):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, BaseException):
                yield value


def test_every_public_error_has_a_sample() -> None:
    assert set(public_errors()) - {type(error) for error in SAMPLES} == {DanubeError}


def facts(error: BaseException) -> object:
    parts = [getattr(arg, "parts", None) for arg in error.args]
    return type(error), str(error), error.args, parts, vars(error)


def again(error: BaseException) -> BaseException:
    copied: BaseException = pickle.loads(pickle.dumps(error))
    return copied


@pytest.mark.parametrize("way", [again, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_being_copied(
    error: BaseException, way: Callable[[BaseException], BaseException]
) -> None:
    error.add_note("while the orders were written")
    copied = way(error)
    assert copied is not error
    assert facts(copied) == facts(error)


def append_too_much(directory: str) -> None:
    with open_wal(WalConfig(dir=directory, max_message_bytes=10)) as log:
        log.append(b"x" * 100)


@pytest.mark.happens
def test_an_error_comes_out_of_a_pool_of_processes_and_the_pool_goes_on(tmp_path: Path) -> None:
    directory = str(tmp_path / "log")
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with open_wal(WalConfig(dir=directory)), pytest.raises(errors.LogLockedError) as locked:
            pool.submit(append_too_much, directory).result()
        assert locked.value.path.endswith("wal.lock")
        with pytest.raises(errors.MessageTooLargeError) as large:
            pool.submit(append_too_much, str(tmp_path / "other")).result()
        assert large.value.setting == "max_message_bytes"
