"""What the command line imports before it does anything: as little as possible, so that `--help`,
and a key in a shell, are answered at once. Which modules are there is tested, and no timing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ENVIRONMENT, fill, numbered

from danube_trio.cli._app import app

SCRIPT = """
import sys
sys.argv = ["danube-trio", *{args!r}]
from danube_trio.cli import main
try:
    main()
finally:
    import json
    print("\\n" + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = {
    *("trio", "attr", "attrs", "cattrs", "rich", "obstore", "httpx2", "anyio", "asyncio"),
    *("zlib_ng", "logging", "ssl", "socket", "subprocess", "tomllib"),
}
CLOUD = {"obstore", "httpx2", "rich", "asyncio", "anyio", "danube_trio.cloud"}


def loaded(args: list[str], **environment: str) -> set[str]:
    """The modules that are there after a command, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(args=args)],
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("args", [[], *([verb] for verb in app.commands)], ids="-".join)
def test_help_imports_nothing_that_it_does_not_need(args: list[str]) -> None:
    modules = loaded([*args, "--help"])
    assert not modules & HEAVY
    ours = {name for name in modules if name.startswith("danube_trio.")}
    assert ours <= {
        *("danube_trio._lazy", "danube_trio._version"),
        *("danube_trio._core", "danube_trio._core.numbers"),
        *(
            f"danube_trio.cli{part}"
            for part in (
                "",
                "._app",
                "._failures",
                "._options",
                "._output",
                "._say",
                "._serve_options",
                "._values",
                "._complete",
            )
        ),
        *(f"danube_trio.cli._{about}_commands" for about in ("store", "machine")),
    }


@pytest.mark.parametrize("line", ["", "re", "replay --", "replay --from ", "info --store s3:"])
def test_completion_imports_nothing_that_it_does_not_need(line: str) -> None:
    modules = loaded([], _DANUBE_TRIO_COMPLETE="bash_complete", COMP_LINE=f"danube-trio {line}")
    assert "danube_trio.cli._complete" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("verb", ["info", "tail", "replay", "verify", "append", "topics"])
def test_a_command_on_a_directory_imports_no_client_of_a_store(tmp_path: Path, verb: str) -> None:
    fill(tmp_path / "a" / "log", numbered(3))
    modules = loaded([verb, str(tmp_path if verb == "topics" else tmp_path / "a" / "log")])
    # What writes a log knows stores as an interface, though it asks none.
    assert not modules & (CLOUD - {"danube_trio.cloud"} if verb != "info" else CLOUD)
