"""The blocking door: threads, Ctrl-C, and what is open when the program ends."""

from __future__ import annotations

import gc
import inspect
import linecache
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from doors import GatedDisk
from test_anyio_door import offsets_of, offsets_when_drained, run_script

import danube_trio.blocking
from danube_trio import LogClosedError, WalConfig
from danube_trio._engine.thread.jobs import AsyncJob, Withdrawn
from danube_trio.blocking import Wal, open_follower, open_replica, open_store, open_wal
from danube_trio.blocking import _read as blocking_reader


class Thread(threading.Thread):
    """A thread whose result can be had."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        super().__init__()
        self._work = (fn, args)
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        fn, args = self._work
        try:
            self.result = fn(*args)
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("name", ["Wal", "Follower", "Replica", "Receipt", "Reader"])
def test_it_has_every_call_of_the_engine_with_the_same_arguments(name: str) -> None:
    inner, own = getattr(danube_trio, name), getattr(danube_trio.blocking, name)
    async_only = {
        "aclose",
        "receive",
        *vars(trio.abc.ReceiveChannel),
        *vars(trio.abc.AsyncResource),
    }
    calls = {key for key, _ in inspect.getmembers(inner) if key[0] != "_"} - async_only
    assert calls - {"close_now", "offsets"} <= set(dir(own))
    for call in calls & set(dir(own)):
        if inspect.isfunction(getattr(inner, call)):
            theirs = inspect.signature(getattr(inner, call)).parameters
            assert list(inspect.signature(getattr(own, call)).parameters) == list(theirs)


def test_a_script(tmp_path: Path) -> None:
    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        assert wal.append(b"a") == 0
        assert wal.append_batch([]) == range(1, 1)
        with wal.reader(end="current") as reader:
            assert [m.payload for m in reader] == [b"a"]
        assert [m.payload for batch in wal.reader(count=1).batches() for m in batch] == [b"a"]
        with open_follower(tmp_path) as follower:
            follower.wait_durable(1)
            assert [m.offset for m in follower.reader(end="current")] == [0]
            wal.append(b"b")
            follower.refresh()
            assert follower.statistics().durable_end == 2
        with pytest.raises(LogClosedError):
            follower.reader()
        with pytest.raises(LogClosedError):
            next(reader)
    with pytest.raises(RuntimeError, match="entered once"):
        block = open_wal(WalConfig())
        with block, block:
            pass


def test_a_store(tmp_path: Path) -> None:
    config = WalConfig(dir=str(tmp_path), topic_name="/default/orders")
    with open_store("memory:") as store:
        with open_wal(config, store=store) as wal:
            wal.append(b"a", durability="uploaded")
            wal.append_nowait(b"b").uploaded()
            wal.wait_uploaded(2)
            assert (wal.uploaded_end, wal.seal()) == (2, 2)
        with open_replica(store, topic="/default/orders") as replica:
            replica.wait_durable(2)
            replica.refresh()
            assert [m.payload for m in replica.reader(end="current")] == [b"a", b"b"]
            assert replica.statistics().durable_end == 2


def test_many_threads_append_and_read(tmp_path: Path) -> None:
    def produce(wal: Wal, name: int) -> list[int]:
        return [wal.append(b"%d" % name) for _ in range(30)]

    def consume(wal: Wal) -> list[int]:
        return [m.offset for m in wal.reader(count=300)]

    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        readers = [Thread(consume, wal) for _ in range(3)]
        writers = [Thread(produce, wal, name) for name in range(10)]
        for thread in writers + readers:
            thread.join()
    assert sorted(offset for w in writers for offset in w.result) == list(range(300))
    assert all(reader.result == list(range(300)) for reader in readers)


def test_closing_from_another_thread_ends_every_wait(tmp_path: Path) -> None:
    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        reader, other = wal.reader(), wal.reader()
        threads = [Thread(next, reader), Thread(wal.wait_durable, 7), Thread(other.next_batch)]
        while len(wal.statistics().readers) < 2:
            pass
        wal.append_nowait(b"x")
        threads[0].join()
        assert threads[0].result.payload == b"x"
        reader.close()
        closer = Thread(wal.close)
        for thread in [closer, *threads[1:]]:
            thread.join()
        assert closer.error is None
        assert isinstance(threads[1].error, LogClosedError)
        wal.close()
        with pytest.raises(LogClosedError):
            wal.append(b"late")
    assert offsets_of(tmp_path) == [0]


@pytest.mark.parametrize("read", ["__next__", "next_batch"])
@pytest.mark.parametrize("late", [False, True])
def test_a_reader_closed_by_another_thread_hands_out_nothing_more(
    read: str, late: bool, tmp_path: Path
) -> None:
    class Closed(blocking_reader.Reader[Any]):
        """What another thread does just before, or just after, a batch is taken over."""

        def _take_fetched(self) -> list[Any]:
            if not late:
                self.close()
            batch = super()._take_fetched()
            if late:
                self.close()
            return batch

    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        wal.append_batch([b"0", b"1"])
        made = wal.reader()
        reader = Closed(made._inner, made._door)
        for _ in range(2):
            with pytest.raises(LogClosedError, match="reader is closed"):
                getattr(reader, read)()
        assert reader.finished


def test_one_thread_at_a_time_reads_from_a_reader(tmp_path: Path) -> None:
    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        reader = wal.reader()
        waiting = Thread(reader.next_batch)
        while not reader._busy:
            pass
        with pytest.raises(trio.BusyResourceError):
            next(reader)
        wal.append(b"x")
        waiting.join()
        assert waiting.result[0].payload == b"x"


def test_a_log_that_was_never_left_warns_and_drains(tmp_path: Path) -> None:
    wal = open_wal(WalConfig(dir=str(tmp_path))).__enter__()
    gc.collect()
    wal.append_nowait(b"x")
    kept = [wal]
    del wal
    with pytest.warns(ResourceWarning, match="never closed"):
        kept.clear()
    gc.collect()
    assert offsets_when_drained(tmp_path) == [0]


# ---- interrupts: a handler that raises, in the main thread, at a moment that the test chooses


class InterruptError(Exception):
    """What the handler raises; Ctrl-C's raises KeyboardInterrupt, in the same way."""


@pytest.fixture
def interrupt() -> Any:
    def handler(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def _interrupt_when(condition: Callable[[], object], then: Callable[[], None]) -> Thread:
    def work() -> None:
        while not condition():
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        then()

    return Thread(work)


def test_an_interrupted_wait_is_over(interrupt: Any, tmp_path: Path) -> None:
    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        reader = wal.reader()
        thread = _interrupt_when(lambda: reader._busy, lambda: None)
        with pytest.raises(InterruptError) as caught:
            next(reader)
        thread.join()
        assert not hasattr(caught.value, "__notes__"), "nothing happened"
        wal.append(b"x")
        assert next(reader).payload == b"x"


@pytest.mark.happens
def test_an_interrupted_append_that_was_accepted_says_so(interrupt: Any, tmp_path: Path) -> None:
    disk = GatedDisk()
    with open_wal(WalConfig(dir=str(tmp_path)), disk=disk) as wal:
        disk.gate.clear()
        thread = _interrupt_when(lambda: wal.next_offset == 1, disk.gate.set)
        with pytest.raises(InterruptError) as caught:
            wal.append(b"x")
        thread.join()
        assert caught.value.__notes__ == ["the interrupted call had taken effect: its result is 0"]
        assert wal.durable_end == 1


def test_an_interrupted_append_that_waits_for_room_never_appears(
    interrupt: Any, tmp_path: Path
) -> None:
    disk = GatedDisk()
    config = WalConfig(dir=str(tmp_path), max_pending_bytes=1000)
    with open_wal(config, disk=disk) as wal:
        disk.gate.clear()
        try:
            first = Thread(wal.append, bytes(900))
            while wal.next_offset == 0:
                pass
            thread = _interrupt_when(lambda: wal.statistics().waiting_appends, lambda: None)
            with pytest.raises(InterruptError) as caught:
                wal.append(bytes(901))
            thread.join()
            assert not hasattr(caught.value, "__notes__")
        finally:
            disk.gate.set()
        first.join()
    assert offsets_of(tmp_path) == [0]


@pytest.mark.parametrize("step", range(60))
def test_an_interrupt_at_any_step_of_an_append_leaves_no_doubt(
    step: int, interrupt: Any, tmp_path: Path
) -> None:
    """The handler raises before the n-th line that the door's own code executes."""
    lines = 0
    late: list[bool] = []  # the call was over, and about to return

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        if "/danube_trio/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == step + 1:
                sys.settrace(None)
                job = frame.f_locals.get("job", frame.f_locals.get("self"))
                over = getattr(job, "outcome", None) is not None
                late.append(over or "offset" in frame.f_locals)
                raise InterruptError
        return trace

    with open_wal(WalConfig(dir=str(tmp_path))) as wal:
        told: int | None = None
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            told = wal.append(b"x")
        except InterruptError as error:
            sys.settrace(before)
            for note in getattr(error, "__notes__", []):
                told = int(note.split()[-1])
        finally:
            sys.settrace(before)
        assert wal.append(b"mark") == (0 if told is None and not any(late) else 1)


def _interrupt_after(calls: int) -> Callable[[Any, str, Any], Any]:
    """A trace: raises after the n-th line with a call. Python looks for signals at calls."""
    before = ""

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal calls, before
        if "/danube_trio/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            calls -= "(" in before
            if "(" in before and calls == 0:
                sys.settrace(None)
                raise InterruptError
            before = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return trace

    return trace


def _interrupted_at_every_step(attempt: Callable[[int, Callable[[], None]], bool]) -> None:
    """Call it until it returns False, with ever later steps, and with what starts the tracing."""
    before, step, again = sys.gettrace(), 0, True
    gc.collect()
    gc.disable()  # what others left must not be interrupted in its `__del__`
    try:
        while again:
            step += 1
            try:
                again = attempt(step, partial(sys.settrace, _interrupt_after(step)))
            finally:
                sys.settrace(before)
    finally:
        gc.enable()
    assert step > 5


def test_an_interrupt_at_any_step_of_reading_loses_no_record() -> None:
    with open_wal(WalConfig()) as wal:
        wal.append_batch([b"0", b"1", b"2"])
        tracing = sys.gettrace()

        def attempt(step: int, start: Callable[[], None]) -> bool:
            reader = wal.reader(count=3)
            found: list[int] = []
            start()
            try:
                found.append(next(reader).offset)
            except InterruptError:
                pass  # nothing was handed out
            finally:
                sys.settrace(tracing)
            assert reader.cursor == len(found)
            interrupted = not found
            found += [message.offset for message in reader]
            assert (found, reader.cursor) == ([0, 1, 2], 3), f"interrupted at step {step}"
            return interrupted

        _interrupted_at_every_step(attempt)


def test_a_job_that_was_cancelled_before_it_was_handed_over_is_withdrawn() -> None:
    """As a run does with a fetch that another thread stops just then."""

    async def never() -> None:
        raise AssertionError("it was withdrawn")

    with open_wal(WalConfig()) as wal:
        door = wal.door
        job = AsyncJob(door.reply, never)
        door.engine_thread.cancel(job)
        assert wal.append(b"x") == 0  # the engine has seen it
        with pytest.raises(Withdrawn):
            door.run(job)
        assert wal.append(b"y") == 1


def test_an_interrupt_at_any_step_of_asking_a_closed_log_waits_for_nobody() -> None:
    with open_wal(WalConfig()) as wal:
        pass
    tracing = sys.gettrace()

    def attempt(_: int, start: Callable[[], None]) -> bool:
        start()
        try:
            wal.append(b"x")
        except InterruptError:
            return True
        except LogClosedError:
            return False
        finally:
            sys.settrace(tracing)
        raise AssertionError("it was appended")

    _interrupted_at_every_step(attempt)


SCRIPT = """
import sys
from danube_trio import WalConfig
from danube_trio.blocking import open_wal

def produce(wal):
    while True:
        print(wal.append(b"x" * 100), flush=True)

def tail(wal):
    print("waiting", flush=True)
    for message in wal.reader():
        print(message)

with open_wal(WalConfig(dir=sys.argv[1])) as wal:
    globals()[sys.argv[2]](wal)
"""


@pytest.mark.parametrize("what", ["produce", "tail"])
def test_ctrl_c_ends_a_script_and_loses_nothing(what: str, tmp_path: Path) -> None:
    code, out, err = run_script(SCRIPT, tmp_path, what, interrupt=True)
    assert code != 0
    assert err.rstrip().splitlines()[-1].startswith(("KeyboardInterrupt", "the interrupted call"))
    acked = [int(word) for word in out.split() if word.isdigit()]
    found = offsets_of(tmp_path)
    assert acked == found[: len(acked)]
    assert len(found) <= len(acked) + 1


AT_EXIT = """
import sys, threading
from danube_trio import LogClosedError, WalConfig
from danube_trio.blocking import open_wal

wal = open_wal(WalConfig(dir=sys.argv[1], fsync_interval_ms=3_600_000)).__enter__()
go = threading.Event()

def late(wal):
    go.wait()
    threading.main_thread().join()
    for _ in range(50):
        wal.append(b"x", durability="accepted")

def stuck(wal):
    # Python aborts if a daemon thread prints its traceback while the interpreter ends.
    try:
        for message in wal.reader():
            pass
    except LogClosedError:
        pass

if sys.argv[2] == "threads":
    threading.Thread(target=late, args=(wal,)).start()
    threading.Thread(target=stuck, args=(wal,), daemon=True).start()
    go.set()
else:
    for _ in range(50):
        wal.append_nowait(b"x")
if sys.argv[2] == "error":
    raise SystemExit(3)
"""


@pytest.mark.happens
@pytest.mark.parametrize("how", ["plain", "threads", "error"])
def test_what_is_open_at_exit_drains_and_is_named(how: str, tmp_path: Path) -> None:
    code, _, err = run_script(AT_EXIT, tmp_path, how)
    assert code == (3 if how == "error" else 0), err
    assert "was never closed" in err
    assert len(offsets_of(tmp_path)) == 50
