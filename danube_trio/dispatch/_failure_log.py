"""What a run logs of its handlers' failures.

A handler that fails once may fail a thousand times. Of each *cause* (the class of the exception and
the line that raised it) a run logs the first failure, with its traceback, and after that how many
more there were: at the 10th, the 100th, each 1,000th, and when the run ends.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from types import CodeType

from danube_trio.dispatch._failures import describe_failure, first_failure

log = logging.getLogger("danube_trio.dispatch")

MOST_CAUSES = 100  # that a run remembers; one that was forgotten is logged anew
EACH = 1000

# The class of an exception, and where it was raised.
Cause = tuple[type[BaseException], CodeType | None, int]


def _cause_of(exc: BaseException) -> Cause:
    failure = first_failure(exc)
    at = failure.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None:
        return type(failure), None, 0
    return type(failure), at.tb_frame.f_code, at.tb_lineno


class FailureLog:
    """What one run has logged of its handlers' failures. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # How often a cause was met, how often when that was last logged, and its last failure.
        self._causes: OrderedDict[Cause, tuple[int, int, str]] = OrderedDict()

    def failed(self, offset: int, attempt: int, error: BaseException) -> None:
        """A handler failed, and the run goes on."""
        cause = _cause_of(error)
        what = f"offset {offset} failed at attempt {attempt}: {describe_failure(error)}"
        with self._lock:
            met, told, _ = self._causes.pop(cause, (0, 0, ""))
            met += 1
            tell = met in (1, 10, 100) or not met % EACH
            self._causes[cause] = (met, met if tell else told, what)
            forgotten = None
            if len(self._causes) > MOST_CAUSES:
                _, forgotten = self._causes.popitem(last=False)
        if met == 1:
            log.warning("%s", what, exc_info=error)
        elif tell:
            _tell_more(met - told, what)
        else:
            log.debug("%s", what)
        if forgotten is not None:
            _tell_rest(*forgotten)

    def end(self) -> None:
        """The run ends: tell what was only counted."""
        with self._lock:
            causes, self._causes = self._causes, OrderedDict()
        for cause in causes.values():
            _tell_rest(*cause)


def _tell_rest(met: int, told: int, what: str) -> None:
    if met > told:
        _tell_more(met - told, what)


def _tell_more(more: int, what: str) -> None:
    log.warning("%s more like it, the last of them: %s", f"and {more:,}", what)
