"""The names that Danube gives its files and objects."""

from __future__ import annotations

import re
from typing import Final

CHECKPOINT: Final = "wal.ckpt"
ROTATED_NAME: Final = re.compile(r"wal\.([0-9]{1,19})\.log")
OBJECT_NAME: Final = re.compile(r"data-([0-9]{1,20})-([0-9]{1,20}|pending)\.dnb1")
PAYLOADS_NAME: Final = re.compile(r"data-[0-9]+-[0-9]+\.bin")
SEGMENT_NAME: Final = re.compile(r"segment_([0-9]{1,20})\.bin")
