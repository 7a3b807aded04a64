"""A worker of `test_dispatch_processes`: says what it handled, then acknowledges it, one by one."""

from __future__ import annotations

import os
import socket
import sys


def main(path: str) -> None:
    """Work until the broker goes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rb") as lines:
            for line in lines:
                offset, payload = line.split()
                os.write(1, b"%s %s\n" % (offset, payload))
                connection.sendall(offset + b"\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OSError:
        sys.exit(3)  # the broker is gone
