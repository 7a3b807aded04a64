"""Completion of words in shells: what is offered, and that a real bash puts it together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class
from test_cli import ENVIRONMENT, ROOT, USAGE, call, fill, numbered, segments

from danube_trio.cli import _complete
from danube_trio.cli._app import app
from danube_trio.cli._values import COMPLETE

BASH = shutil.which("bash")


def items(*args: object) -> list[CompletionItem]:
    """What is offered for the last of these words."""
    *before, incomplete = map(str, args)
    shell = ShellComplete(app, {}, "danube-trio", COMPLETE)
    return shell.get_completions(before, incomplete)


def offered(*args: object) -> list[str]:
    return [item.value for item in items(*args)]


def test_commands_and_options_are_offered() -> None:
    assert offered("re") == ["repair", "replay", "restore"]
    assert {"--from", "--until", "--json"} <= {*offered("replay", "--")}
    assert offered("append", "--format", "") == ["lines", "ndjson", "length-prefixed"]
    assert "s5-standard" in offered("append", "--codec", "s5")


@pytest.mark.parametrize("verb", sorted({*app.commands} - {"completion"}))
def test_directories_are_completed_by_the_shell(verb: str) -> None:
    (item,) = items(verb, "x")
    assert (item.type, item.value) == ("dir", "x")


def test_positions_are_words_times_and_the_beginnings_of_segments(tmp_path: Path) -> None:
    fill(tmp_path / "log", numbered(30), segment_bytes=500)
    bases = [str(int(path.name.split(".")[1])) for path in segments(tmp_path / "log")]
    assert offered("replay", "--from", "e") == ["earliest"]
    assert offered("replay", "--from", "@2")[0].startswith("@20")
    found = offered("replay", tmp_path / "log", "--from", "")
    assert found[:2] == ["earliest", "latest"]
    assert found[3:] == bases
    assert offered("tail", tmp_path / "log", "--from", "1") == [b for b in bases if b[0] == "1"]
    assert offered("replay", tmp_path / "log", "--until", "") == ["current", *bases]
    for nowhere in (tmp_path / "none", "\0", tmp_path):
        assert offered("replay", nowhere, "--until", "") == ["current"]


def test_stores_and_their_topics_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered("info", "--store", "") == ["s3://", "gs://", "az://", "file:///"]
    assert offered("info", "--store", "g") == ["gs://"]
    assert offered("info", "--metadata", "") == ["etcd://", "etcds://"]
    assert "endpoint=" in offered("info", "--store-option", "e")
    store = tmp_path / "objects"
    for topic in ("/default/orders", "/default/other", "/x/y"):
        (store / "storage" / "topics" / topic[1:]).mkdir(parents=True)
    url = f"file://{tmp_path}/"
    assert offered("info", "--store", f"{url}ob") == [f"{url}objects/"]
    assert offered("info", "--store", url) == [url, f"{url}objects/"]
    assert offered("info", "--store", f"{url}objects/", "--topic", "/d") == [
        "/default/orders",
        "/default/other",
    ]
    assert offered("info", "--store", "s3://bucket", "--topic", "") == []
    (tmp_path / "a b").mkdir()
    assert offered("info", "--store", f"{url}a") == [f"{url}a%20b/"]
    monkeypatch.setenv("DANUBE_STORE", f"file://{store}")
    assert offered("replay", "--topic", "/x") == ["/x/y"]


# ---- scripts


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str) -> None:
    result = call("completion", shell)
    assert f"{COMPLETE}={shell}_complete" in result.out.decode()
    assert "danube-trio" in result.out.decode()
    assert call("completion", shell, "--json").json == {
        "shell": shell,
        "script": result.out.decode(),
    }
    kind = get_completion_class(shell)
    assert kind is not None
    assert kind(app, {}, "danube-trio", COMPLETE).source() == result.out.decode()


def test_the_shell_of_the_user_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert call("completion", "--json").json["shell"] == "fish"
    monkeypatch.setenv("SHELL", "/bin/sh")
    result = call("completion")
    assert (result.code, result.out) == (USAGE, b"")
    assert "danube-trio completion bash|zsh|fish" in result.err


def test_click_finds_the_class_for_bash_that_knows_about_colons() -> None:
    assert get_completion_class("bash") is _complete.Bash


# ---- bash itself

BASH_SCRIPT = """
source <(danube-trio completion bash)
COMP_LINE=$1
COMP_POINT=${#COMP_LINE}
# As readline would: words are cut at what is in COMP_WORDBREAKS, too.
compopt() { echo "compopt $*"; }
_danube_trio_completion danube-trio
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(line: str, directory: Path) -> list[str]:
    """What bash would be given for a line."""
    assert BASH is not None
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [BASH, "--norc", "-euc", BASH_SCRIPT, "bash", line],
        env={**ENVIRONMENT, "PATH": path},
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
def test_bash_completes_lines(tmp_path: Path) -> None:
    (tmp_path / "objects" / "storage" / "topics" / "a b" / "c").mkdir(parents=True)
    assert in_bash("danube-trio rest", tmp_path) == ["restore"]
    assert in_bash("danube-trio info ", tmp_path) == ["compopt -o dirnames", ""]
    assert in_bash("danube-trio replay 'a dir' --from ea", tmp_path) == ["earliest"]
    # Bash replaces what follows the colon only.
    assert in_bash("danube-trio info --store s3:", tmp_path) == ["compopt -o nospace", "//"]
    assert in_bash("danube-trio info --store s", tmp_path) == ["compopt -o nospace", "s3://"]
    assert in_bash(f"danube-trio info --store file://{tmp_path}/o", tmp_path) == [
        "compopt -o nospace",
        f"//{tmp_path}/objects/",
    ]
    topic = in_bash(f"danube-trio info --store file://{tmp_path}/objects --topic /", tmp_path)
    assert topic == ["/a b/c"]


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
def test_bash_registers_the_function() -> None:
    assert BASH is not None
    script = call("completion", "bash").out
    done = subprocess.run(
        [BASH, "--norc", "-euc", f"{script.decode()}\ncomplete -p danube-trio"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "complete -o nosort -F _danube_trio_completion danube-trio\n"


def test_the_page_shows_a_script_for_each_shell() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for shell in ("bash", "zsh", "fish"):
        assert f"danube-trio completion {shell}" in page
    assert json.loads(call("completion", "zsh", "--json").out)["shell"] == "zsh"
