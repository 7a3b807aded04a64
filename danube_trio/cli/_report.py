"""What a command finds, plans and does: lines of text, or one object of JSON each."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from danube_trio.cli._say import say
from danube_trio.cli._words import reworded

if TYPE_CHECKING:
    from danube_trio._engine.care.verify_segment import Finding


class Report:
    """Prints; called with a finding, it counts it, too."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.counts: Counter[str] = Counter()

    def show(self, facts: object, text: str) -> None:
        """One thing, in the one way or the other."""
        say(json.dumps(facts) if self.as_json else text)

    def __call__(self, finding: Finding, *, most: int | None = None) -> None:
        """A finding; no more than `most` of one severity are printed."""
        self.counts[finding.severity] += 1
        if most is None or self.counts[finding.severity] <= most:
            self.show(attrs.asdict(finding), f"{finding.severity}: {finding}")

    def step(self, action: str, path: str, reason: str, lost: object = None) -> None:
        """A step of a plan; `lost` are the offsets that it loses, if any."""
        step = {"action": action, "path": path, "reason": reason, "lost": lost}
        self.show({"step": step}, f"plan: {action}: {path}: {reworded(reason)}")

    def done(self, note: str) -> None:
        """What was carried out."""
        self.show({"done": note}, f"done: {note}")
