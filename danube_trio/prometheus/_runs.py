"""Asking things of a trio run from any thread.

What belongs to a trio run may be looked at in its thread only, between two steps of its tasks. A
scrape comes in another thread, so it *hops*: the question is put into the run's queue, and the
thread waits for the answer, but not for ever, because a program that keeps its loop busy must not
pile up threads that wait. In the run's own thread (an ASGI server on trio) it is asked at once. A
run that has ended changes nothing any more, so its things can be asked anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import trio

__all__ = ["ask", "current_run"]

T = TypeVar("T")


def current_run() -> trio.lowlevel.TrioToken | None:
    """The trio run of this thread; None if there is none."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def ask(run: trio.lowlevel.TrioToken, question: Callable[[], T], timeout: float) -> T:
    """The answer of a function that never waits, called in the run's thread.

    Raises what it raises, and TimeoutError if the run did not get to it in so many seconds.
    """
    if current_run() is run:
        return question()
    answer: Future[T] = Future()

    def put() -> None:
        if not answer.set_running_or_notify_cancel():
            return  # nobody waits any more
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)  # all of them: here they would end the run

    try:
        run.run_sync_soon(put)
    except trio.RunFinishedError:
        return question()
    try:
        return answer.result(timeout)
    finally:
        answer.cancel()  # does nothing once it is answered
