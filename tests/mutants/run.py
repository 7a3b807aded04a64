"""Runs mutants: ``make mutants``, or ``python tests/mutants/run.py --help``.

Each mutant is applied to a copy of the package, and the tests that it names run there. One of them
must fail, or hang: then the mutant was *killed*. One that *survived* needs a test, or a reason in
the table why nobody can notice. Who changes the code adapts the text of its mutants;
`test_mutants_apply.py` says which ones in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import attrs

sys.path.insert(0, str(Path(__file__).parent.parent))

from mutants.mutant import PACKAGE, TESTS, Mutant
from mutants.table import MUTANTS

# What pytest's exit codes mean here.
PASSED, FAILED, NO_TESTS = 0, 1, 5
# A test that takes longer hangs, and fails; it takes a second or two.
HANGS_AFTER = 60


@attrs.frozen
class Outcome:
    """What became of one mutant: a word, whether that is as it should be, and more about it."""

    mutant: Mutant
    word: str
    good: bool
    more: str
    seconds: float = 0.0

    def __str__(self) -> str:
        took = f"{self.seconds:5.1f} s" if self.seconds else " " * 7
        return f"{self.word:10} {took}  {self.mutant.name}  ({self.mutant.file}) {self.more}"


class Tree:
    """A copy of package and tests, for one mutant at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (PACKAGE.name, TESTS.name, "docs"):  # some tests read the pages
            skip = shutil.ignore_patterns("_build")
            shutil.copytree(TESTS.parent / name, root / name, ignore=skip)
        shutil.copy2(TESTS.parent / "pyproject.toml", root)
        # Compiled once: later runs of the same second must not take one text for another.
        command = [sys.executable, "-m", "compileall", "-q", str(root / PACKAGE.name)]
        subprocess.run(command, check=True)

    def run(self, mutant: Mutant, timeout: float, *, clean: bool) -> Outcome:
        """Apply it, unless `clean`, run its tests, and take it back."""
        path = self.root / PACKAGE.name / mutant.file
        original = path.read_bytes()
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        if not clean:
            path.write_text(mutant.applied(original.decode()), encoding="utf-8")
        started = time.monotonic()
        try:
            code, output = self._pytest(mutant.tests, timeout)
        finally:
            path.write_bytes(original)
        return judge(mutant, code, output, time.monotonic() - started, clean=clean)

    def _pytest(self, tests: Sequence[str], timeout: float) -> tuple[int | None, str]:
        """Exit code (None: it was still running) and output."""
        scratch = self.root / "tmp"
        scratch.mkdir(exist_ok=True)
        settings = {
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(scratch),
        }
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", f"--timeout={HANGS_AFTER}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)],
            cwd=self.root,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with the programs that its tests started
            process.communicate()
            return None, ""
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return process.returncode, output


def judge(mutant: Mutant, code: int | None, output: str, seconds: float, *, clean: bool) -> Outcome:
    """What the end of the tests says about the mutant."""
    failed = re.findall(r"^FAILED tests/(\S+)", output, re.MULTILINE)
    if clean and code is not None:
        word = "passes" if code == PASSED else "FAILS"
        return Outcome(mutant, word, code == PASSED, " ".join(failed), seconds)
    if code is None:
        return Outcome(mutant, "TOO LONG", False, "name fewer tests, or faster ones", seconds)
    if code == FAILED:
        return Outcome(mutant, "killed", True, f"by {' '.join(failed)}", seconds)
    if code == PASSED:
        return Outcome(mutant, "SURVIVED", False, f"all pass: {' '.join(mutant.tests)}", seconds)
    why = "no such test" if code == NO_TESTS else f"pytest ended with {code}"
    return Outcome(mutant, "ERROR", False, f"{why}\n{output[-2000:]}", seconds)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Those with one of these words in their name or file; all of them without any."""
    wanted = [name.lower() for name in names] or [""]
    return [m for m in MUTANTS if any(w in f"{m.name} {m.file}".lower() for w in wanted)]


def run_all(mutants: Sequence[Mutant], jobs: int, timeout: float, *, clean: bool) -> list[Outcome]:
    """Run them in as many trees, and print each outcome as it comes."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for number in range(jobs):
            trees.put(Tree(Path(scratch) / str(number)))

        def run(mutant: Mutant) -> Outcome:
            if why := mutant.wrong():
                return Outcome(mutant, "STALE", False, why)
            if mutant.equivalent:
                return Outcome(mutant, "equivalent", True, mutant.equivalent)
            tree = trees.get()
            try:
                return tree.run(mutant, timeout, clean=clean)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            for future in as_completed([pool.submit(run, mutant) for mutant in mutants]):
                outcomes.append(future.result())
                print(outcomes[-1], flush=True)
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every mutant was killed, or cannot be noticed; 1 if not; 2 if there is none."""
    parser = argparse.ArgumentParser(description="Run mutants; see the table beside this file.")
    parser.add_argument("names", nargs="*", help="only those with one of these words in them")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each mutant")
    parser.add_argument("--list", action="store_true", help="print names, run nothing")
    parser.add_argument("--clean", action="store_true", help="run the tests without the mutants")
    arguments = parser.parse_args(argv)
    mutants = chosen(arguments.names)
    if not mutants:
        parser.error(f"no mutant has {' or '.join(arguments.names)} in its name or file")
    if arguments.list:
        print(*(f"{m.file}: {m.name}" for m in mutants), sep="\n")
        return 0
    jobs = max(1, min(arguments.jobs, len(mutants)))
    outcomes = run_all(mutants, jobs, arguments.timeout, clean=arguments.clean)
    bad = [outcome for outcome in outcomes if not outcome.good]
    words = sorted({outcome.word for outcome in outcomes})
    counts = ", ".join(f"{sum(o.word == word for o in outcomes)} {word}" for word in words)
    print(f"\n{len(outcomes)} mutants: {counts}")
    for outcome in bad:
        print(outcome)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
