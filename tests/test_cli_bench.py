"""`danube-trio bench`: that it measures, and leaves nothing behind. No timing is asserted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from test_cli import INTERRUPTED, OK, USAGE, call, started

from danube_trio._disk.real import RealDisk
from danube_trio.cli import _bench

QUICK = ("--seconds", 0.05, "--batch", 100, "--producers", 50)


def test_every_measurement_is_made_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    result = call("bench", tmp_path, *QUICK, "--size", 100, "--json")
    assert (result.code, result.err) == (OK, "")
    facts = result.json
    assert (facts["payload_bytes"], facts["batch"], facts["producers"]) == (100, 100, 50)
    for name in ("single", "batches", "concurrent"):
        found = facts[name]
        assert found["records_per_s"] > 0
        assert 0 < found["p50_s"] <= found["p99_s"]
        assert found["of_device"] > 0
        assert 0 < found["device"]["p50_s"] <= found["device"]["p99_s"]
    assert facts["replay"]["records_per_s"] > 0
    assert facts["replay"]["payload_bytes_per_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_table_names_what_was_measured(tmp_path: Path) -> None:
    result = call("bench", tmp_path, *QUICK)
    assert result.code == OK
    head, *rows = result.out.decode().split("\n\n")[1].splitlines()
    assert head.split() == ["records/s", "device/s", "ratio", "p50", "p99"]
    for row, what in zip(
        rows,
        ("one producer", "batches of 100", "50 producers", "replay, from the page cache"),
        strict=True,
    ):
        assert what in row


def test_an_empty_payload_is_measured(tmp_path: Path) -> None:
    assert call("bench", tmp_path, *QUICK, "--size", 0, "--json").code == OK


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_directory_ends_with_2(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = call("bench", tmp_path / name)
    assert (result.code, result.out) == (USAGE, b"")
    assert str(tmp_path / name) in result.err


def test_a_disk_that_is_nearly_full_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free_bytes(self: RealDisk, path: str) -> int:
        return 5 << 20

    monkeypatch.setattr(RealDisk, "free_bytes", free_bytes)
    result = call("bench", tmp_path)
    assert (result.code, result.out) == (USAGE, b"")
    assert "needs 1280 MiB, and 5 MiB are free: name a directory on another" in result.err


def test_it_writes_no_more_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench, "MOST_BYTES", 100_000)
    monkeypatch.setattr(_bench, "LEAST_RECORDS", 1)
    sizes: list[int] = []
    unlink = RealDisk.unlink

    def seen(self: RealDisk, path: str) -> None:
        sizes.append(self.file_size(path))
        unlink(self, path)

    monkeypatch.setattr(RealDisk, "unlink", seen)
    assert call("bench", tmp_path, *QUICK).code == OK
    # One step is made in each turn, whatever it takes.
    assert all(size <= 100_000 + 5 * 120_000 for size in sizes)
    assert len(sizes) >= 3


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    with started("bench", tmp_path, "--seconds", 60) as process:
        while not list(tmp_path.glob(".danube-bench-*/log/wal.meta")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read().strip()) == (b"", b"")
    assert process.returncode == INTERRUPTED
    assert list(tmp_path.iterdir()) == []
