"""How a command ends: exit codes, and one line on stderr.

========  ==========================================================================================
0         done
1         problems were found (``verify``), or damaged records were stepped over
2         wrong usage: arguments, input, an offset that does not exist, no log in the directory
3         damaged data, or a format that this version does not support
4         the log is locked by another program
5         an input or output error, or the log broke
130       interrupted (Ctrl-C)
========  ==========================================================================================

A reader that goes away (``| head``) ends a command quietly and with 0: it has what it wanted.
"""

from __future__ import annotations

import io
import sys
from typing import Any, cast

import click

from danube_trio._core.bincode import DecodeError
from danube_trio.errors import (
    CorruptDataError,
    LogLockedError,
    MessageTooLargeError,
    OffsetTrimmedError,
    UnsupportedFormatError,
)
from danube_trio.errors import DanubeError as AnyDanubeError

__all__ = ["CORRUPT", "PROBLEMS", "Commands", "InputError", "complain"]

PROBLEMS, USAGE, CORRUPT, LOCKED, IO, INTERRUPTED = 1, 2, 3, 4, 5, 130


class InputError(ValueError):
    """What came on stdin cannot be appended."""


def complain(text: str) -> None:
    """A line on stderr."""
    click.echo(f"danube-trio: {text}", err=True)


class Commands(click.Group):
    """The group of all commands: turns what they raise into an exit code and a line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BaseException as error:
            ctx.exit(_exit_code(_innermost(error)))
        return result


def _innermost(error: BaseException) -> BaseException:
    """What is inside groups of one; an interrupt if there is one in a larger group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    interrupts = [e for e in group.exceptions if isinstance(e, KeyboardInterrupt)]
    if interrupts or len(group.exceptions) == 1:
        return _innermost([*interrupts, *group.exceptions][0])
    return group


def _exit_code(error: BaseException) -> int:
    """Say what happened, and return the code; raises what is a bug."""
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            _give_up_output()
            return 0
        case FileNotFoundError() | NotADirectoryError():
            code = USAGE
        case OSError():
            code = IO
            _give_up_output()
        case LogLockedError():
            code = LOCKED
        case CorruptDataError() | UnsupportedFormatError() | DecodeError():
            code = CORRUPT
        case OffsetTrimmedError() | MessageTooLargeError() | ValueError():
            code = USAGE
        case AnyDanubeError():
            code = IO
        case _:
            raise error
    complain(_in_words(error))
    return code


def _give_up_output() -> None:
    """Or Python would flush it again at exit, complain, and end with a code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = io.StringIO()


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)
