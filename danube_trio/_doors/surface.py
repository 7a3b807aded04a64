"""What can be asked of the engine's objects from outside of its thread: one surface for all doors.

A door has a class of its own for each public class of the engine. Its objects hold the engine's, as
`inner`, and the way to its thread, as `door`. What they show is one of these:

========  =================================  ====================================================
word      the engine's                       through a door
========  =================================  ====================================================
mark      a property, mostly an integer      is read where the caller is; see `afar`
at_once   a method that never waits          a hop: the caller blocks for as long as that takes
waits     a coroutine function               a job, awaited in an asyncio task, or waited for by a
                                             thread: each door has its own
makes     the same, and its result is an     the same, and the result becomes the door's
          object of the engine
========  =================================  ====================================================

::

    class Storage:
        seal = waits(engine.Storage.seal)
        statistics = at_once(engine.Storage.statistics, late=True)
        create_reader = makes(engine.Storage.create_reader, lambda self, made: Reader(made, ...))

A word keeps the name of the engine's method, its arguments, types and docstring. What does more
than hand over, as an append, which encodes where the caller is, is written out; `arguments_of`
saves it the list of arguments.

The doors' own classes are the table: `anyio._views` and `blocking._log` side by side, and so on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

ANY_ARGUMENTS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def at_once(
    method: Callable[Concatenate[Any, P], T], *, late: bool = False
) -> Callable[Concatenate[Any, P], T]:
    """A method that never waits, but for the hop.

    Args:
        method: the engine's.
        late: whether it may be called after what it belongs to was left: it asks, and changes
            nothing.
    """
    name = method.__name__

    @wraps(method)
    def call(self: Any, *args: Any, **more: Any) -> object:
        return self.door.call_now(partial(getattr(self.inner, name), *args, **more), late=late)

    return cast("Callable[Concatenate[Any, P], T]", call)


def arguments_of(model: Callable[P, object]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Show the decorated function with the arguments of `model`, to people and to type checkers.

    Name, docstring and result are its own. It is called as it is: so it must hand on what it takes.
    """
    shown = partial(_with_arguments, model)
    return cast("Callable[[Callable[..., T]], Callable[P, T]]", shown)


def method_arguments_of(
    model: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """The same for a method, of whatever class."""
    shown = partial(_with_arguments, model)
    return cast("Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]", shown)


def _with_arguments(model: Callable[..., object], fn: Any) -> Any:
    """`inspect.signature` and `help` look at `__wrapped__`, which nobody calls.

    A signature made here would cost every import; so it is another function that is shown.
    """
    plain: Any = inspect.unwrap(model)
    # What it is (a coroutine function or not) is as with `fn`, and how it takes arguments as there.
    code = plain.__code__
    flags = (fn.__code__.co_flags & ~ANY_ARGUMENTS) | (code.co_flags & ANY_ARGUMENTS)
    if flags != code.co_flags:
        code = code.replace(co_flags=flags)
    names = {**plain.__globals__, **fn.__globals__}
    shown = FunctionType(code, names, fn.__name__, plain.__defaults__, plain.__closure__)
    shown.__kwdefaults__ = plain.__kwdefaults__
    shown.__annotations__ = {**plain.__annotations__, "return": fn.__annotations__["return"]}
    fn.__wrapped__ = shown
    return fn
