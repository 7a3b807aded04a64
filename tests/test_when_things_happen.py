"""`docs/when-things-happen.md`: each row of its tables is a test, and each such test is a row.

A test that is a row has the mark `happens`; it is found by reading the files, none is imported.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "when-things-happen.md"
COLUMNS = ["What happened", "What the log does", "What you see", "What you do", "Shown by"]
MARK = "pytest.mark.happens"


def rows() -> list[list[str]]:
    """The cells of each row, after checking that each table has the columns and a row."""
    text = PAGE.read_text(encoding="utf-8")
    found: list[list[str]] = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        table = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines
            if line.startswith("|")
        ]
        assert table[:2] == [COLUMNS, ["---"] * len(COLUMNS)], title
        assert len(table) > 2, title
        found += table[2:]
    assert text.count("\n|") == len(found) + 2 * text.count("\n## "), "a table without a section"
    return found


def marked_and_all() -> tuple[set[tuple[str, str]], Counter[tuple[str, str]]]:
    """The tests with the mark, and all of them with how often each is defined, as (file, name)."""
    marked: set[tuple[str, str]] = set()
    defined: Counter[tuple[str, str]] = Counter()
    for path in [*TESTS.glob("test_*.py"), *TESTS.glob("http/test_*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                defined[path.stem, node.name] += 1
                if any(ast.unparse(decorator) == MARK for decorator in node.decorator_list):
                    marked.add((path.stem, node.name))
    return marked, defined


def test_each_row_is_a_test_and_each_marked_test_is_a_row() -> None:
    found = rows()
    assert len(found) >= 60
    assert [row for row in found if len(row) != len(COLUMNS) or not all(row)] == []
    named = Counter[tuple[str, str]]()
    for row in found:
        test = re.fullmatch(r"`(test_\w+)::(test_\w+)`", row[-1])
        assert test, row
        named[test[1], test[2]] += 1
    marked, defined = marked_and_all()
    assert [test for test, count in named.items() if count > 1] == [], "each has one row"
    assert [test for test in named if defined[test] != 1] == [], "each is there, and once"
    assert sorted(named.keys() - marked) == [], f"without the mark @{MARK}"
    assert sorted(marked - named.keys()) == [], "with the mark, and without a row"


def test_no_two_rows_tell_of_the_same() -> None:
    happened = Counter(row[0] for row in rows())
    assert [what for what, count in happened.items() if count > 1] == []
