"""What a mutant is, and whether it still applies."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

__all__ = ["PACKAGE", "TESTS", "Mutant"]

TESTS = Path(__file__).parent.parent
PACKAGE = TESTS.parent / "danube_trio"


@attrs.frozen
class Mutant:
    """One change of one file.

    Attributes:
        name: what the change means, in a few words; unique.
        file: in the package.
        old: text that stands there exactly once. As short as is unique, so that it stays.
        new: what stands there instead.
        tests: who should notice, as ``test_file.py`` or ``test_file.py::test_name``; few and fast.
        equivalent: why nobody can notice; then there are no tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    def wrong(self) -> str:
        """Why it does not apply any more, and what to do; "" if it does."""
        where = f"mutant {self.name!r} of danube_trio/{self.file}"
        path = PACKAGE / self.file
        if not path.is_file():
            return f"{where}: there is no such file; say where the code is now"
        times = path.read_text(encoding="utf-8").count(self.old)
        if times != 1:
            return f"{where}: its text stands there {times} times, not once:\n{self.old}"
        if bool(self.tests) == bool(self.equivalent):
            return f"{where}: it has either tests or a reason why nobody can notice"
        for test in self.tests:
            file, _, name = test.partition("::")
            if not (TESTS / file).is_file():
                return f"{where}: there is no tests/{file}"
            function = name.partition("[")[0]
            text = (TESTS / file).read_text(encoding="utf-8")
            if name and not re.search(rf"^(async )?def {function}\(", text, re.MULTILINE):
                return f"{where}: there is no {function} in tests/{file}"
        return ""

    def applied(self, text: str) -> str:
        """The text of its file, changed."""
        return text.replace(self.old, self.new, 1)
