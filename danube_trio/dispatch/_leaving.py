"""What leaving a dispatch raised, for doors that leave it from another thread."""

from __future__ import annotations

from danube_trio.errors import DanubeError

__all__ = ["settle_dispatch"]


def settle_dispatch(
    error: BaseException, body: BaseException | None, cancelled: type[BaseException] | None
) -> None:
    """As `ReliableDispatch` itself does it: what the body raised goes out, with a note.

    Args:
        error: from leaving.
        body: what the block's body raised.
        cancelled: how the body's world says that it was cancelled; that is no different here.
    """
    if body is None:
        raise error
    if isinstance(error, DanubeError | TimeoutError):
        body.add_note(f"cursors were not saved: {error}")
    else:
        raise error from body
