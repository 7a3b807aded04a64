"""The simulated disk's history: crash points, repeatable samples, and virtual time."""

from __future__ import annotations

import pytest
import trio
from disks import D, durable_file, new_disk, trees
from trio.testing import MockClock

from danube_trio._core.disk import read_file, replace_file
from danube_trio.testing import SimDisk

# -- crash points


def workload(disk: SimDisk) -> None:
    file = disk.open(f"{D}/wal", "create")
    disk.sync_dir(D)
    for number in range(20):
        file.write_at(b"%03d " % number * 10, 40 * number)
        if number % 3 == 0:
            file.sync_data()
        if number % 7 == 0:
            replace_file(disk, f"{D}/ckpt", b"%d" % number)
    disk.rename(f"{D}/wal", f"{D}/old")
    disk.unlink(f"{D}/ckpt")
    read_file(disk, f"{D}/old", 1000)


def fingerprint(disk: SimDisk) -> list[tuple[int, str, dict[str, bytes], tuple[str, ...]]]:
    return [
        (state.op_count, state.name, state.disk.tree(), state.lost)
        for point in disk.crash_points(samples=5)
        for state in point.states
    ]


def test_the_same_seed_gives_the_same_crashes() -> None:
    disks = [new_disk(seed=seed) for seed in (1, 1, 2)]
    for disk in disks:
        workload(disk)
    one, same, other = map(fingerprint, disks)
    assert one == same
    assert one != other
    assert len(one) > 300


def test_one_seed_repeats_a_crash_within_a_crash() -> None:
    found: list[dict[str, bytes]] = []
    for _ in range(2):
        disk = new_disk(seed=5)
        workload(disk)
        state = list(disk.crash_states(30, samples=5))[-1]
        state.disk.open(f"{D}/again", "create").write_at(bytes(range(100)), 0)
        found.append(list(state.disk.crash_states(samples=5))[-1].disk.tree())
    assert found[0] == found[1]


def test_the_replay_of_the_history_is_what_was_there_at_the_time() -> None:
    disk = new_disk()
    live: dict[int, dict[str, dict[str, bytes]]] = {}
    disk.on_operation = lambda operation: live.update(
        {operation.number: trees(disk.crash_states())}
    )
    workload(disk)
    disk.on_operation = None
    live[disk.op_count] = trees(disk.crash_states())
    for point in disk.crash_points(start=min(live)):
        # Looking into the future, the replay also knows how far the next write could get.
        replayed = [state for state in point.states if not state.name.startswith("killed")]
        assert trees(replayed) == live[point.op_count]
        assert trees(disk.crash_states(point.op_count)) == trees(point.states)


def test_points_are_where_something_new_can_happen() -> None:
    disk = new_disk()
    start = disk.op_count
    file = disk.open(f"{D}/a", "create")
    disk.list_dir(D)
    file.size()
    file.write_at(b"data", 0)
    file.read_at(4, 0)
    file.sync_data()
    file.sync_data()
    file.close()
    points = [point.op_count - start for point in disk.crash_points(start=start)]
    assert points == [0, 3, 5, 8]  # before the creation, the write and the sync; and now


def test_a_crashed_disk_can_be_used_and_crashed_again() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    disk.lock(f"{D}/lock", "dead")
    disk.fail(None, sticky=True)
    after = disk.crash("everything kept")
    assert after.op_count == 0
    after.lock(f"{D}/lock", "alive").release()
    after.open(f"{D}/a", "rw").write_at(b"2", 0)
    assert after.tree()[f"{D}/a"] == b"2ew"
    assert disk.tree()[f"{D}/a"] == b"new"
    assert next(iter(after.crash_points())).states[0].disk.tree()[f"{D}/a"] == b"new"


def test_a_crash_says_what_it_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"1234", 3)
    disk.open(f"{D}/b", "create")
    lost = {state.name: state.lost for state in disk.crash_states()}
    assert lost["everything written"] == lost["everything kept"] == ()
    assert lost["synced only"] == (
        f"{D}/a: data [3, 7)",
        f"{D}/a: size 7",
        f"{D}/b: creation of 'b'",
    )
    assert lost["last write torn at 2"] == (
        f"{D}/a: data [3, 7), of which data [3, 5) was kept",
        f"{D}/a: size 7, of which size 5 was kept",
    )


def test_crashes_that_cannot_be_are_refused() -> None:
    disk = new_disk()
    with pytest.raises(ValueError, match="no crash 'torn' is possible now, only synced only"):
        disk.crash("torn")
    for at in (-1, disk.op_count + 1):
        with pytest.raises(ValueError, match=f"between 0 and {disk.op_count}, got {at}"):
            next(disk.crash_states(at))
    with pytest.raises(ValueError, match="sector_bytes must be at least 1, got 0"):
        SimDisk(sector_bytes=0)


# -- time


async def test_calls_take_virtual_time(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=2.0)
    lane = disk.open_lane()
    finished: list[tuple[str, float]] = []

    async def call(name: str) -> None:
        start = trio.current_time()
        await (lane.run(int) if name == "lane" else disk.run(int))
        finished.append((name, trio.current_time() - start))

    async with trio.open_nursery() as nursery:
        for name in ("lane", "run", "lane", "run"):
            nursery.start_soon(call, name)
    assert sorted(finished) == [("lane", 2.0), ("lane", 4.0), ("run", 2.0), ("run", 2.0)]
    disk.latency = 0
    await call("lane")
    assert finished[-1] == ("lane", 0.0)


async def test_a_call_that_has_begun_is_not_cancelled(autojump_clock: MockClock) -> None:
    disk = SimDisk(latency=2.0)
    lane = disk.open_lane()
    calls: list[int] = []
    for number, run in enumerate((disk.run, lane.run)):
        with trio.move_on_after(1) as scope:
            await run(calls.append, number)
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert calls == [0, 1]
