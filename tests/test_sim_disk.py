"""The simulated disk: each sentence of its model about crashes, one by one."""

from __future__ import annotations

import pytest
from disks import D, contents, durable_file, new_disk, trees
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.disk import replace_file
from danube_trio.testing import ProcessKilledError, SimDisk

# -- 1. files


def test_synced_data_survives() -> None:
    disk = new_disk()
    durable_file(disk, b"data")
    assert contents(disk.crash_states(samples=50)) == {b"data"}


def test_unsynced_data_may_be_lost_kept_or_torn() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    found = contents(disk.crash_states(samples=100))
    assert {b"old", b"new", b"nld", b"oew"} <= found
    assert disk.read_file(f"{D}/a") == b"new"


def test_a_size_may_be_kept_without_its_data() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 3)
    assert trees(disk.crash_states())["sizes without data"] == {f"{D}/a": b"old\0\0\0"}


def test_data_beyond_the_size_that_was_kept_is_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 3)
    found = contents(disk.crash_states(samples=1000))
    assert found == {
        *(b"old", b"oldnew", b"old\0\0\0"),
        *(b"oldn", b"oldne", b"oldn\0\0", b"oldne\0"),
        *(b"old\0ew", b"old\0\0w", b"old\0e\0", b"oldn\0w"),
    }


def test_allocated_space_is_a_size() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.allocate(6)
    assert contents(disk.crash_states(samples=20)) == {b"old", b"old\0\0\0"}
    file.sync_data()
    assert contents(disk.crash_states(samples=20)) == {b"old\0\0\0"}


def test_a_truncation_may_be_lost() -> None:
    disk = new_disk()
    file = durable_file(disk, b"12345")
    file.truncate(2)
    assert contents(disk.crash_states(samples=20)) == {b"12345", b"12"}
    file.sync_data()
    assert contents(disk.crash_states(samples=20)) == {b"12"}


def test_what_a_truncation_cut_is_zero_when_the_file_grows_again() -> None:
    disk = new_disk()
    file = durable_file(disk, b"12345")
    file.truncate(2)
    file.allocate(5)
    file.sync_data()
    assert contents(disk.crash_states()) == {b"12\0\0\0"}


def test_a_durable_write_does_nothing_for_what_was_written_before() -> None:
    disk = new_disk()
    file = durable_file(disk, b"........")
    file.write_at(b"AAAA", 0)
    file.write_durable_at(b"BB", 3)
    file.write_at(b"CC", 6)
    assert disk.read_file(f"{D}/a") == b"AAABB.CC"
    assert disk.crash().tree() == {f"{D}/a": b"...BB..."}
    found = contents(disk.crash_states(samples=500))
    assert {data[3:5] for data in found if data} == {b"BB"}
    assert {data[:3] for data in found if data} >= {b"...", b"AAA", b"A.."}
    assert disk.crash("everything kept").tree() == {f"{D}/a": b"AAABB.CC"}
    file.sync_data()
    assert disk.crash().tree() == {f"{D}/a": b"AAABB.CC"}


def test_a_durable_write_makes_the_size_durable() -> None:
    disk = new_disk()
    file = durable_file(disk, b"12345678")
    file.write_at(b"x" * 8, 0)
    file.truncate(4)
    file.write_at(b"y", 5)
    file.write_durable_at(b"z", 7)
    assert disk.read_file(f"{D}/a") == b"xxxx\0y\0z"
    assert contents(disk.crash_states()) >= {b"1234\0\0\0z", b"1234\0y\0z", b"xxxx\0y\0z"}
    assert all(
        data and data[4] == data[6] == 0 and data[7:] == b"z"
        for data in contents(disk.crash_states(samples=100))
    )


def test_a_crash_may_come_in_the_middle_of_a_durable_write() -> None:
    disk = new_disk()
    file = durable_file(disk, b"....")
    at = disk.op_count
    file.write_durable_at(b"BBBB", 0)
    assert contents(disk.crash_states(at + 1)) == {b"....", b"B...", b"BB..", b"BBB.", b"BBBB"}
    assert contents(disk.crash_states(at + 2, samples=20)) == {b"BBBB"}


def test_a_later_write_may_be_kept_without_an_earlier_one() -> None:
    disk = new_disk()
    file = durable_file(disk, b"........")
    file.write_at(b"AAAA", 0)
    file.write_at(b"BBBB", 4)
    assert trees(disk.crash_states())["first write lost"] == {f"{D}/a": b"....BBBB"}


def test_what_is_kept_of_overlapping_writes_has_their_order() -> None:
    disk = new_disk(sector_bytes=512)
    file = durable_file(disk, b"....")
    file.write_at(b"AAA", 0)
    file.write_at(b"BBB", 1)
    assert contents(disk.crash_states(samples=100)) == {b"....", b"AAA.", b".BBB", b"ABBB"}


def test_a_link_is_kept_or_lost_and_synced_with_its_directory() -> None:
    disk = new_disk()
    durable_file(disk, b"1")
    disk.link(f"{D}/a", f"{D}/b")
    assert contents(disk.crash_states(samples=20), "b") == {None, b"1"}
    disk.unlink(f"{D}/a")
    found = {tuple(state.disk.tree()) for state in disk.crash_states(samples=50)}
    assert found == {(), (f"{D}/a",), (f"{D}/b",), (f"{D}/a", f"{D}/b")}
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/b": b"1"}


def test_a_rename_keeps_the_links_of_its_file() -> None:
    disk = new_disk()
    durable_file(disk, b"1")
    disk.link(f"{D}/a", f"{D}/b")
    disk.sync_dir(D)
    disk.rename(f"{D}/a", f"{D}/c")
    found = {tuple(state.disk.tree()) for state in disk.crash_states(samples=50)}
    assert found == {(f"{D}/a", f"{D}/b"), (f"{D}/b", f"{D}/c")}


def test_syncing_one_file_does_nothing_for_another() -> None:
    disk = new_disk()
    file, other = durable_file(disk, b"1", "a"), durable_file(disk, b"1", "b")
    file.write_at(b"2", 0)
    other.write_at(b"2", 0)
    file.sync_data()
    assert disk.crash().tree() == {f"{D}/a": b"2", f"{D}/b": b"1"}


# -- 2. directories


def test_syncing_a_file_does_nothing_for_its_name() -> None:
    disk = new_disk()
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"data", 0)
    file.sync_data()
    assert trees(disk.crash_states()) == {
        "synced only": {},
        "everything written": {f"{D}/a": b"data"},
        "everything kept": {f"{D}/a": b"data"},
    }


def test_syncing_a_directory_does_nothing_for_its_files() -> None:
    disk = new_disk()
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"data", 0)
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/a": b""}


def test_data_and_names_are_lost_apart() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"new", 0)
    disk.open(f"{D}/b", "create").write_at(b"b", 0)
    found = trees(disk.crash_states())
    assert found["data without directory entries"] == {f"{D}/a": b"new"}
    assert found["directory entries without data"] == {f"{D}/a": b"old", f"{D}/b": b""}
    assert found["sizes without data"] == {f"{D}/a": b"old", f"{D}/b": b"\0"}


def test_a_removal_may_be_lost_or_be_the_only_thing_kept() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.open(f"{D}/b", "create").write_at(b"new", 0)
    disk.unlink(f"{D}/a")
    found = trees(disk.crash_states())
    assert found["synced only"] == {f"{D}/a": b"old"}
    assert found["removals only"] == {}


def test_each_change_of_a_directory_is_undone_on_its_own() -> None:
    disk = new_disk()
    for name in "abc":
        disk.open(f"{D}/{name}", "create")
    found = {frozenset(state.disk.list_dir(D)) for state in disk.crash_states(samples=200)}
    assert len(found) == 8


def test_the_order_of_names_means_nothing_for_one_created_again() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.unlink(f"{D}/a")
    file = disk.open(f"{D}/a", "create")
    file.write_at(b"new", 0)
    file.sync_data()
    assert contents(disk.crash_states(samples=50)) == {b"old", b"new", None}


def test_a_directory_that_was_not_synced_takes_its_files_along() -> None:
    disk = new_disk()
    disk.fail("sync_dir", path_contains=D, error=None)  # make_dir syncs the parent: let that lie
    disk.make_dir(f"{D}/sub")
    disk.write_file(f"{D}/sub/a", b"data")
    assert disk.crash().tree() == {}
    disk.sync_dir(D)
    assert disk.crash().tree() == {f"{D}/sub/a": b"data"}


def test_the_removal_of_a_directory_is_lost_until_its_parent_is_synced() -> None:
    disk = new_disk()
    disk.make_dir(f"{D}/sub")
    disk.remove_dir(f"{D}/sub")
    found = {tuple(state.disk.list_dir(D)) for state in disk.crash_states()}
    assert found == {(), ("sub",)}
    disk.sync_dir(D)
    assert [state.disk.list_dir(D) for state in disk.crash_states()] == [[], []]


def test_make_dir_is_durable_even_for_what_a_killed_process_made() -> None:
    disk = SimDisk()
    process = disk.process()
    # The second directory sync is that of the new name "a".
    disk.on_operation = lambda operation: process.kill() if operation.number == 3 else None
    with pytest.raises(ProcessKilledError):
        process.make_dir("/a")
    assert [operation.name for operation in disk.operations[2:]] == ["make_dir", "sync_dir"]
    assert disk.list_dir("/") == ["a"]
    assert disk.crash().list_dir("/") == []
    disk.make_dir("/a")
    assert disk.crash().list_dir("/") == ["a"]


# -- 4. torn writes


def test_a_write_is_torn_at_sectors_only() -> None:
    disk = new_disk(sector_bytes=4)
    file = durable_file(disk, b"." * 12)
    file.write_at(b"x" * 8, 2)  # sectors are counted from the start of the file
    assert contents(disk.crash_states(samples=300)) == {
        b".." + a + b + c + b".."
        for a in (b"..", b"xx")
        for b in (b"....", b"xxxx")
        for c in (b"..", b"xx")
    }


def test_a_write_inside_one_sector_is_not_torn() -> None:
    disk = new_disk(sector_bytes=512)
    file = durable_file(disk, b"." * 512)
    file.write_at(b"x" * 512, 0)
    assert contents(disk.crash_states(samples=50)) == {b"." * 512, b"x" * 512}


def test_the_last_write_is_torn_at_several_places() -> None:
    disk = new_disk()
    file = durable_file(disk, b"old")
    file.write_at(b"12", 3)
    file.write_at(b"34567", 5)
    found = trees(disk.crash_states())
    assert {name: tree[f"{D}/a"] for name, tree in found.items() if "torn" in name} == {
        "last write torn at 1": b"old123",
        "last write torn at 3": b"old12345",
        "last write torn at 4": b"old123456",
        "last write torn at 3, size kept": b"old12345\0\0",
    }


# -- 5. renames


def test_a_rename_is_kept_or_lost_as_a_whole() -> None:
    disk = new_disk()
    durable_file(disk, b"old", "a")
    durable_file(disk, b"new", "b")
    disk.rename(f"{D}/b", f"{D}/a")
    old, new = {f"{D}/a": b"old", f"{D}/b": b"new"}, {f"{D}/a": b"new"}
    found = trees(disk.crash_states(samples=20)).values()
    assert all(tree in (old, new) for tree in found)
    assert {len(tree) for tree in found} == {1, 2}
    disk.sync_dir(D)
    assert disk.crash().tree() == new


def test_a_rename_does_not_need_the_creation_of_its_source() -> None:
    disk = new_disk()
    durable_file(disk, b"old", "a")
    file = disk.open(f"{D}/b", "create")
    file.write_at(b"new", 0)
    file.sync_data()
    disk.rename(f"{D}/b", f"{D}/a")
    found = trees(disk.crash_states(samples=50)).values()
    assert {tuple(tree.items()) for tree in found} == {
        ((f"{D}/a", b"old"),),
        ((f"{D}/a", b"old"), (f"{D}/b", b"new")),
        ((f"{D}/a", b"new"),),
    }


def test_a_file_never_has_two_names() -> None:
    disk = new_disk()
    durable_file(disk, b"data", "a")
    for source, target in ("ab", "bc", "cd"):
        disk.rename(f"{D}/{source}", f"{D}/{target}")
    found = {tuple(state.disk.list_dir(D)) for state in disk.crash_states(samples=100)}
    assert found == {("a",), ("b",), ("c",), ("d",)}


def test_renames_stay_in_one_directory() -> None:
    disk = new_disk()
    disk.make_dir("/other")
    durable_file(disk, b"data")
    with pytest.raises(OSError, match="EXDEV"):
        disk.rename(f"{D}/a", "/other/a")


def test_replacing_a_file_gives_the_old_or_the_new_at_every_point() -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    start = disk.op_count
    replace_file(disk, f"{D}/a", b"new")
    found: set[bytes | None] = set()
    for point in disk.crash_points(samples=20, start=start):
        found |= contents(point.states)
    assert found == {b"old", b"new"}
    assert contents(disk.crash_states(samples=20)) == {b"new"}


@pytest.mark.parametrize("forgotten", ["sync_data", "sync_dir"])
def test_replacing_a_file_without_a_sync_is_found_out(forgotten: str) -> None:
    disk = new_disk()
    durable_file(disk, b"old")
    disk.fail(forgotten, error=None)
    replace_file(disk, f"{D}/a", b"new")
    found = contents(disk.crash_states(samples=100))
    wrong = {b"old"} if forgotten == "sync_dir" else {b"", b"\0\0\0", b"n", b"ne"}
    assert {b"new", *wrong} <= found
    assert (b"old" in found) == (forgotten == "sync_dir")


class Reference:
    """A file as plain bytes: what is visible must be this, whatever was synced."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, position: int) -> None:
        self.data.extend(bytes(max(0, position - len(self.data))))
        self.data[position : position + len(data)] = data

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


sizes = st.integers(0, 9000)
steps = st.one_of(
    st.tuples(st.just("write"), sizes, st.integers(0, 6000)),
    st.tuples(st.sampled_from(["truncate", "allocate"]), sizes, st.just(0)),
    st.tuples(st.just("sync_data"), st.just(0), st.just(0)),
)


@given(st.lists(steps, max_size=12), st.integers(0, 1000))
def test_a_file_is_its_bytes_and_a_crash_keeps_what_was_synced(
    script: list[tuple[str, int, int]], seed: int
) -> None:
    disk = SimDisk(seed=seed)
    file, reference, synced = disk.open("/a", "create"), Reference(), b""
    disk.sync_dir("/")
    for number, (name, position, size) in enumerate(script):
        if name == "write":
            data = bytes([number + 1]) * size
            file.write_at(data, position)
            if data:
                reference.write(data, position)
        elif name == "sync_data":
            file.sync_data()
            synced = bytes(reference.data)
        else:
            file.truncate(position) if name == "truncate" else file.allocate(position)
            reference.resize(position if name == "truncate" else max(position, file.size()))
        assert file.read_at(20_000, 0) == reference.data
        assert file.size() == len(reference.data)
    assert disk.crash().read_file("/a") == synced
    assert disk.crash("everything written").read_file("/a") == reference.data
    for state in disk.crash_states(samples=5):
        state.disk.open("/a", "r").close()


def test_a_failed_sync_of_a_directory_is_told_once_to_everybody_who_has_it_open() -> None:
    disk = new_disk()
    first, second = disk.open_dir(D), disk.process().open_dir(D)
    disk.fail("sync_dir")
    with pytest.raises(OSError, match="EIO"):
        disk.sync_dir(D)
    late = disk.open_dir(D)
    for opened in (first, second):
        with pytest.raises(OSError, match="EIO"):
            opened.sync_dir(D)
        opened.sync_dir(D)
    late.sync_dir(D)
    disk.fail("sync_dir")
    with pytest.raises(OSError, match="EIO"):
        first.sync_dir(D)
    first.sync_dir(D)  # it was told by the failure itself
    for opened in (second, late):
        with pytest.raises(OSError, match="EIO"):
            opened.sync_dir(D)
    for opened in (first, second, late):
        opened.close()
        opened.close()
