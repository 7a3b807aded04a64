"""The socket that an offer is reached by, and its name in the file system. Blocking.

Beside `_disk` this is the only room that changes names in the file system, because a socket is no
file that a `Disk` knows: it has no content, nothing of it is durable, and losing it loses nothing.

- **A name appears whole.** The socket is bound to a temporary name, gets mode 0600 and listens,
  and only then is renamed. So a name that refuses a connection belongs to a program that is gone:
  it is replaced, or removed, without asking anybody.
- **A name goes with its socket**, unless somebody has replaced it meanwhile: then it is not ours.
- **Long paths.** An address holds about 100 bytes, a path thousands. On Linux a longer one goes
  through ``/proc/self/fd``: by the directory for binding, by the socket itself for connecting.
- **A forked child** has the descriptors too, and would keep a connection open which nobody serves
  when the parent is gone. It closes them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat
import sys
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MODE = 0o600
# Linux has 108 bytes with the zero at the end, macOS 104.
MAX_ADDRESS_BYTES = 107 if sys.platform == "linux" else 103
# Connections that wait to be accepted; the ones beyond it are told to try again.
BACKLOG = 16
LOG_TMP = ".watch.tmp"

_O_PATH: int = getattr(os, "O_PATH", 0)
_O_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_O_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_O_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)

_numbers = itertools.count()


class Inherited(Protocol):
    """A socket, the system's or trio's."""

    def detach(self) -> int:
        """Forget the descriptor, and return it."""
        ...


class Offer:
    """A listening socket that has a name. Made by `listen`.

    Attributes:
        sock: not blocking; who takes it closes it.
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.sock = sock
        self.path = path
        self._identity = _identity(path)

    def remove_name(self) -> None:
        """Remove the name, if it is still this socket's. Never raises: a dead name harms nobody."""
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                os.unlink(self.path)

    def close(self) -> None:
        """Remove the name and close the socket."""
        self.remove_name()
        self.sock.close()


def listen(path: str, tmp: str) -> Offer:
    """Listen under this name, for this user only. Replaces the name of a program that is gone.

    Args:
        path: absolute.
        tmp: a name in the same directory that is nobody else's.

    Raises OSError: EADDRINUSE, a program is there; EEXIST, the name is taken by something else;
    ENOTSUP, this system has no such sockets; and what binding raises.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(
            errno.ENOTSUP,
            f"a log can be watched where there are Unix domain sockets only, not on {sys.platform}",
            path,
        )
    _check_free(path)
    directory = os.path.dirname(path)
    bound = f"{directory}/{tmp}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(bound)
        with _short(directory, tmp) as address:
            _bind(sock, address, path)
        try:
            os.chmod(bound, MODE)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            os.rename(bound, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(bound)
            raise
        return Offer(sock, path)
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, address: str, path: str) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
            text = f"this file system holds no sockets ({error.strerror})"
        else:
            text = f"a socket cannot be made there ({error.strerror})"
        raise OSError(error.errno, f"{text}: the log cannot be watched here", path) from error


def tmp_name() -> str:
    """A temporary name for a directory that others listen in too."""
    return f".watch-{os.getpid()}-{next(_numbers)}.tmp"


def _check_free(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "not a socket; move it out of the way", path)
    try:
        dial(path, 1.0).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return
    except OSError:
        pass  # somebody is there, who has no time
    raise OSError(errno.EADDRINUSE, "another program is watched by this name", path)


def dial(path: str, timeout: float) -> socket.socket:
    """Connect to an offer. Each call on the socket takes `timeout` seconds at most.

    Raises OSError: ECONNREFUSED, the program is gone; EAGAIN, too many are waiting there; EACCES,
    it is another user's; TimeoutError.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.ENOTSUP, "this system has no Unix domain sockets", path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _short(path) as address:
            sock.connect(address)
    except OSError as error:
        sock.close()
        if error.errno is None:  # a timeout
            raise
        raise OSError(error.errno, error.strerror, path) from None
    except BaseException:
        sock.close()
        raise
    return sock


def is_socket(path: str) -> bool:
    """Whether there is a socket by this name."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def sweep(directory: str, mine: Callable[[str], bool]) -> None:
    """Remove the names of programs that are gone, among those for which `mine` is true."""
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if not mine(name) or not is_socket(path):
            continue
        try:
            dial(path, 1.0).close()
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError:
            continue  # it lives, or is not ours


# ---- long paths


@contextlib.contextmanager
def _short(path: str, name: str = "") -> Generator[str]:
    """An address of a socket that exists, or of a name in a directory that does not exist yet."""
    whole = f"{path}/{name}" if name else path
    if len(os.fsencode(whole)) <= MAX_ADDRESS_BYTES:
        yield whole
        return
    if not (_O_PATH and os.path.isdir("/proc/self/fd")):
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path has more than {MAX_ADDRESS_BYTES} bytes, which a socket's address cannot "
            "hold, and there is no /proc to go round that: use a shorter one",
            path,
        )
    fd = os.open(path, _O_PATH | _O_CLOEXEC | (_O_DIRECTORY if name else _O_NOFOLLOW))
    try:
        yield f"/proc/self/fd/{fd}" + f"/{name}" * bool(name)
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


# ---- forks

_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_in_child(sock: Inherited) -> None:
    """Have a forked child close this socket."""
    _inherited.add(sock)


def _after_fork_in_child() -> None:
    for sock in _inherited:
        # Not `close`, which would tell the event loop of it: that is the parent's.
        fd = sock.detach()
        if fd >= 0:
            os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
