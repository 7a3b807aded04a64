"""How a command ends: an exit code, and one line on stderr that names the file and the next step.

`CODES` is the only list of exit codes: the help is made of it, and `docs/cli.md` is compared with
it. A reader that goes away (``| head``) ends a command quietly and with 0: it has what it wanted.

What the errors are is imported when there is one: `--help` waits for this file.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import click

from danube_trio.cli._say import complain, shown

if TYPE_CHECKING:
    from logging import LogRecord

OK, PROBLEMS, USAGE, CORRUPT, LOCKED, IO, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

CODES: Final = {
    OK: "done",
    PROBLEMS: "problems were found or are left, or damaged records were stepped over",
    USAGE: "wrong usage, wrong input, or no log in the directory or store",
    CORRUPT: "damaged data, or a format that is not supported",
    LOCKED: "the log is locked by another program",
    IO: "an input or output error, the store does not answer, or the log broke or was taken over",
    INTERRUPTED: "interrupted",
}
EXIT_CODES: Final = "\b\nExit codes:\n" + "".join(
    f"  {code:<5}{text}\n" for code, text in CODES.items()
)


_DIRECTORY = "danube_trio.directory"


class InputError(ValueError):
    """What came on stdin cannot be appended.

    Attributes:
        place: which line or payload it is, as text.
        number: the same, counted from 1.
        reason: what is wrong with it.
    """

    def __init__(self, place: str, number: int, reason: str) -> None:
        self.place = place
        self.number = number
        self.reason = reason
        super().__init__(f"stdin, {place} {number}: {reason}")


class Command(click.Command):
    """A command that is about to run: not one that is asked for its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = EXIT_CODES

    def invoke(self, ctx: click.Context) -> Any:
        """Have the library's warnings look like the command's own."""
        import logging

        root = ctx.find_root()
        verbose = bool(root.params.get("verbose"))
        text = "%(levelname)s %(name)s: %(message)s" if verbose else "danube-trio: %(message)s"
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=text)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_show)
        root.meta[_DIRECTORY] = ctx.params.get("directory") or ctx.params.get("target")
        return super().invoke(ctx)


def _show(record: LogRecord) -> bool:
    record.msg, record.args = shown(record.getMessage()), None
    return True


class Commands(click.Group):
    """The group of all commands: turns what they raise into an exit code and a line."""

    command_class = Command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; what they ask for may be printed at once, as the help is."""
        try:
            return super().make_context(*args, **kwargs)
        except OSError as error:
            sys.exit(_exit_code(error, None))

    def invoke(self, ctx: click.Context) -> None:
        """Run the command that was named. What it returns is the exit code: True is `PROBLEMS`."""
        try:
            if code := super().invoke(ctx):
                # Before the flush, for what fails there must not hide it: see `finish`.
                ctx.exit(int(code))
            if sys.stdout is not None:
                sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BaseException as error:
            ctx.exit(_exit_code(_innermost(error), ctx.find_root().meta.get(_DIRECTORY)))


def _innermost(error: BaseException) -> BaseException:
    """What is inside groups of one; an interrupt if there is one in a larger group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    interrupts = [e for e in group.exceptions if isinstance(e, KeyboardInterrupt)]
    if interrupts or len(group.exceptions) == 1:
        return _innermost([*interrupts, *group.exceptions][0])
    return group


def _exit_code(error: BaseException, directory: str | None) -> int:
    """Say what happened, and return the code; raises what is a bug."""
    if isinstance(error, KeyboardInterrupt | click.Abort):  # the latter of a question
        give_up_output()
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        give_up_output()
        return OK
    code = _code_of(error)
    if code is None:
        raise error
    give_up_output()
    from danube_trio.cli._words import in_words

    complain(in_words(error, directory))
    return code


def _code_of(error: BaseException) -> int | None:
    """The exit code; None for what is a bug."""
    from danube_trio import errors
    from danube_trio._core.bincode import DecodeError

    match error:
        case FileNotFoundError() | NotADirectoryError():
            return USAGE
        case OSError():
            return IO
        case errors.LogLockedError():
            return LOCKED
        case errors.CorruptDataError() | errors.UnsupportedFormatError() | DecodeError():
            return CORRUPT
        case errors.OffsetTrimmedError() | errors.MessageTooLargeError() | ValueError():
            return USAGE
        case errors.DanubeError():
            return IO
        case _:
            return None


def finish(end: OSError | str | int | None) -> str | int | None:
    """The exit code, after all was written: it is another one if that fails."""
    try:
        if isinstance(end, OSError):
            raise end
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = _exit_code(error, None)
        return code if isinstance(end, OSError) or not end else end
    return end


def give_up_output() -> None:
    """If it cannot be written: or Python would try again at exit, and end with its own code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = io.StringIO()
