"""``python -m danube_trio.cli`` is ``danube-trio``."""

from __future__ import annotations

from danube_trio.cli import main

main()
