"""The bytes of manifests, index pages and Danube's JSON: golden bytes, and every kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.danube_catalog import (
    Details,
    EpochEntry,
    Head,
    SealedState,
    SegmentDescriptor,
    TopicKeys,
    decode_segment,
    encode_cur,
    encode_segment,
    join_segment,
    normalise_topic,
    split_segment,
)
from danube_trio._core.documents import NewerFormatError, compact, parse
from danube_trio._core.files import with_crc
from danube_trio._core.manifest import (
    Page,
    check_successor,
    decode_manifest,
    decode_page,
    encode_manifest,
    encode_row,
    fold,
    manifest_name,
    manifest_sequence,
    object_name,
    object_parts,
    page_sequence,
)

FIRST = Descriptor(
    base=5,
    end=15,
    size_bytes=1000,
    object_id="00000000000000000005-0000000001-cafe.dnb1",
    crc32=0xDEADBEEF,
    etag='"é"',
    created_at=1768728599,
    epoch=1,
    first_time=1_768_728_599_000_000,
    last_time=1_768_728_600_000_000,
    index=((5, 0, 1_768_728_599_000_000), (9, 400, 1_768_728_599_500_000)),
)
SECOND = Descriptor(15, 16, 90, "00000000000000000015-0000000001-beef.dnb1", 0, epoch=1)
STATE = CatalogState(
    epoch=2,
    owner="directory",
    owner_since_epoch=1,
    writer="host ü, pid 7",
    start_offset=7,
    end=16,
    segments=(FIRST, SECOND),
    codec="v0.12.0",
    sequence=3,
    nonce="0123456789abcdef",
)
GOLDEN = (
    '{"codec":"v0.12.0","deleted":false,"end":16,"epoch":2,"format":1,"nonce":"0123456789abcdef",'
    '"owner":"directory","owner_since_epoch":1,"pages":[],"sealed":false,"segments":[{"base":5,'
    '"crc32":3735928559,"created_at":1768728599,"end":15,"epoch":1,"etag":"\\"é\\"",'
    '"first_time":1768728599000000,"index":[0,0,1768728599000000,4,400,500000],'
    '"last_time":1768728600000000,"object_id":"00000000000000000005-0000000001-cafe.dnb1",'
    '"size_bytes":1000},{"base":15,"crc32":0,"created_at":0,"end":16,"epoch":1,"etag":null,'
    '"first_time":0,"index":[],"last_time":0,'
    '"object_id":"00000000000000000015-0000000001-beef.dnb1","size_bytes":90}],"sequence":3,'
    '"start_offset":7,"trailer":1,"writer":"host ü, pid 7"}\ncrc32 a1737889\n'
).encode()
EMPTY = CatalogState(epoch=1, owner="d", codec="c", sequence=1, nonce="n")
DELETED = attrs.evolve(STATE, start_offset=16, segments=(), deleted=True, sealed=True)


def encode(state: CatalogState) -> bytes:
    return encode_manifest(state, (), [encode_row(d) for d in state.segments])


def decode(data: bytes, sequence: int) -> CatalogState:
    return decode_manifest(data, sequence).state(())


# ---- manifests


def test_a_manifest_has_these_bytes() -> None:
    assert encode(STATE).decode() == GOLDEN.decode()


ODD = attrs.evolve(STATE, writer='"segments":[', owner='","segments":[],"', codec="\\")


@pytest.mark.parametrize("state", [STATE, EMPTY, DELETED, ODD])
def test_a_manifest_comes_back_whole(state: CatalogState) -> None:
    assert decode(encode(state), state.sequence) == state


def test_a_manifest_is_cut_nowhere_unnoticed() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(ValueError, match="CRC"):
            decode(GOLDEN[:length], 3)
    for more in (b"\n", b"x", GOLDEN):
        with pytest.raises(ValueError, match="CRC"):
            decode(GOLDEN + more, 3)


def test_no_bit_of_a_manifest_flips_unnoticed() -> None:
    for position in range(len(GOLDEN)):
        for bit in range(8):
            damaged = bytearray(GOLDEN)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError, match="CRC"):
                decode(bytes(damaged), 3)


def test_a_manifest_under_another_number_is_refused() -> None:
    with pytest.raises(ValueError, match="number 3"):
        decode(GOLDEN, 4)


def changed(**fields: Any) -> bytes:
    """The golden manifest with other fields, and a right CRC."""
    return with_crc(json.dumps(json.loads(GOLDEN.partition(b"\n")[0]) | fields).encode())


def test_a_newer_manifest_is_refused_whatever_it_says() -> None:
    with pytest.raises(NewerFormatError):
        decode(with_crc(b'{"format":2,"anything":[]}'), 3)


def test_fields_of_later_versions_are_ignored() -> None:
    assert decode(changed(color="red"), 3) == STATE


def row(d: Descriptor, **fields: Any) -> dict[str, Any]:
    index = [0, 0, 0][: 3 * bool(d.index)]
    return attrs.asdict(d) | {"index": index} | fields


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"end": "16"}, "end"),
        ({"end": 16.0}, "end"),
        ({"sealed": 1}, "sealed"),
        ({"writer": None}, "writer"),
        ({"segments": None}, "segments"),
        ({"segments": {}}, "segments end at 7"),
        ({"format": "1"}, "format|not supported"),
        ({"end": 17}, "segments end at 16"),
        ({"start_offset": 4}, "first segment"),
        ({"start_offset": 15}, "first segment"),
        ({"start_offset": 17}, "first segment"),
        ({"segments": [], "start_offset": 17, "end": 16}, "segments end at 17"),
        ({"owner_since_epoch": 3}, "epoch 2"),
        ({"owner_since_epoch": -1}, "epoch 2"),
        ({"segments": [row(SECOND)]}, "first segment"),
        ({"segments": [row(FIRST)]}, "segments end at 15"),
        ({"segments": [row(FIRST), row(SECOND, base=14)]}, "14..15|15..14"),
        ({"segments": [row(FIRST, size_bytes=0), row(SECOND)]}, "no segment"),
        ({"segments": [row(FIRST, end=5), row(SECOND)]}, "no segment"),
        ({"segments": [row(FIRST, index=[1, 2]), row(SECOND)]}, "is cut"),
        ({"segments": [row(FIRST, index=[0, 1, 0]), row(SECOND)]}, "position 0"),
        ({"segments": [row(FIRST, index=[10, 0, 0]), row(SECOND)]}, "index"),
        ({"segments": [row(FIRST, index=[0, 0, 0, 1, 1000, 0]), row(SECOND)]}, "index"),
        ({"segments": [row(FIRST, index=[0, 0, 0, 0, 10, 0]), row(SECOND)]}, "index"),
        ({"segments": [row(FIRST, index=[0, 0, 0, 1, 0, 0]), row(SECOND)]}, "index"),
        ({"segments": [row(FIRST, index=[True, 0, 0]), row(SECOND)]}, "index"),
    ],
)
def test_a_manifest_that_no_writer_made_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(changed(**fields), 3)


@pytest.mark.parametrize("line", [b"", b"[]", b"3", b"null", b"{}", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        decode_manifest(with_crc(line), 1)


# ---- pages, and what goes into them


def segments(count: int, start: int = 0, entries: int = 1) -> tuple[Descriptor, ...]:
    return tuple(
        Descriptor(
            base=base,
            end=base + 10,
            size_bytes=100,
            object_id=object_name(base, 1, "ab"),
            crc32=base,
            epoch=1,
            index=tuple((base + i, i, i) for i in range(entries)),
        )
        for base in range(start, start + count * 10, 10)
    )


def test_a_page_comes_back_whole_and_undamaged() -> None:
    page = Page.of(segments(3), 7, "cafe")
    data = page.encode()
    assert decode_page(data, page.ref) == page
    assert page_sequence(page.ref.name) == 7
    for damaged in (data[:-1], data + b"\n", data.replace(b'"base":10', b'"base":11'), b""):
        with pytest.raises(ValueError, match="not the one"):
            decode_page(damaged, page.ref)


def test_pages_of_equal_name_have_equal_bytes() -> None:
    names = {Page.of(s, 7, "cafe").ref.name for s in (segments(3), segments(2), segments(3, 10))}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [({"base": 10}, "first segment"), ({"end": 40}, "end at 30"), ({"count": 2}, "3 segments")],
)
def test_a_page_that_is_not_what_the_manifest_says_is_refused(
    change: dict[str, Any], why: str
) -> None:
    page = Page.of(segments(3), 7, "cafe")
    with pytest.raises(ValueError, match=why):
        decode_page(page.encode(), attrs.evolve(page.ref, **change))


@given(
    count=st.integers(0, 30),
    trimmed=st.integers(0, 300),
    paged=st.integers(0, 30),
    limit=st.integers(1, 5),
    entries=st.integers(0, 5),
    limit_bytes=st.integers(1, 2000),
)
def test_folding_loses_nothing(
    count: int, trimmed: int, paged: int, limit: int, entries: int, limit_bytes: int
) -> None:
    all_ = segments(count, entries=entries)
    left = tuple(d for d in all_ if d.end > trimmed)
    known = [
        Page.of(all_[i : i + limit], 1, "n") for i in range(0, min(paged, count) // limit, limit)
    ]
    kept, groups, listed = fold(left, known, limit=limit, limit_bytes=limit_bytes)
    pages = [*kept, *(Page.of(group, 2, "m") for group in groups)]
    start = left[0].base if left else count * 10
    state = CatalogState(1, "o", 0, "w", start, count * 10, left, "c", nonce="m", sequence=2)
    again = decode_manifest(encode_manifest(state, pages, [*map(encode_row, listed)]), 2)
    assert again.state(pages) == state
    assert len(listed) <= limit
    assert all(len(group) <= limit for group in groups)
    for page in known:  # a page is written once as long as it holds anything
        assert (page in kept) == any(d in left for d in page.segments)


def test_pages_of_another_history_are_not_kept() -> None:
    known = [Page.of(segments(3), 1, "n")]
    other = (*segments(2), attrs.evolve(segments(3)[2], object_id=object_name(20, 2, "cd")))
    kept, groups, listed = fold(other, known, limit=10, limit_bytes=10**6)
    assert (kept, groups, tuple(listed)) == ([], [], other)


# ---- names


def test_names_sort_like_numbers() -> None:
    numbers = [1, 9, 10, 99, 2**32, 2**63, 2**64 - 1]
    names = [manifest_name(number) for number in numbers]
    assert sorted(names) == names
    assert [manifest_sequence(name) for name in names] == numbers


@pytest.mark.parametrize("name", ["", "1", "cur", "0" * 19, "0" * 21, "+" + "0" * 19, "٣" * 20])
def test_other_names_are_no_manifests_and_no_pages(name: str) -> None:
    assert manifest_sequence(name) is None
    assert page_sequence(f"{name}-x") is None


def test_objects_say_base_and_epoch() -> None:
    assert object_name(70000, 3, "ab12") == "00000000000000070000-0000000003-ab12.dnb1"
    assert object_parts("00000000000000070000-0000000003-ab12.dnb1") == (70000, 3)
    assert object_parts(object_name(2**64 - 1, 10**11, "ab")) == (2**64 - 1, 10**11)
    for other in ("data-0-29.dnb1", "", "00000000000000070000-0000000003-ab12.dnb1.tmp"):
        assert object_parts(other) is None


# ---- what may follow what


def nonced(state: CatalogState, **changes: Any) -> CatalogState:
    fields: dict[str, Any] = {"sequence": 0, "nonce": "new"} | changes
    return attrs.evolve(state, **fields)


def test_the_transitions_may_follow() -> None:
    d = attrs.evolve(segments(1, 16)[0], epoch=2)
    for after in (
        STATE.committed(d),
        STATE.trimmed(15),
        STATE.trimmed(16),
        STATE.trimmed(99),
        STATE.left_sealed(),
        STATE.left_deleted(),
        STATE.taken_over("other", "w", least_epoch=7),
    ):
        assert check_successor(STATE, nonced(after)).sequence == 4
    first = CatalogState.begin(5, "c", 1).taken_over("o", "w")
    assert check_successor(None, nonced(first)).sequence == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STATE, nonced(STATE, nonce="")),
        (nonced(STATE), nonced(STATE)),
        (None, nonced(CatalogState.begin(0, "c", 1))),
        (STATE, nonced(STATE, epoch=1)),
        (STATE, nonced(STATE, start_offset=6)),
        (STATE, nonced(STATE, end=15, segments=(FIRST,))),
        (STATE, nonced(STATE, segments=(SECOND,))),
        (STATE, nonced(STATE, segments=(FIRST, attrs.evolve(SECOND, object_id="x")))),
        (DELETED, nonced(STATE)),
        (attrs.evolve(STATE, start_offset=15, segments=(SECOND,)), nonced(STATE, start_offset=15)),
    ],
)
def test_nothing_else_may_follow(before: CatalogState | None, after: CatalogState) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        check_successor(before, after)


# ---- Danube's bytes


def test_danubes_documented_descriptor_has_these_bytes() -> None:
    golden = (
        b'{"completed":true,"created_at":1768728599,"end_offset":29,"etag":null,'
        b'"offset_index":[[0,0]],"segment_id":"data-0-29.dnb1","size":7164,"start_offset":0}'
    )
    segment = SegmentDescriptor("data-0-29.dnb1", 0, 29, 7164, None, 1768728599, True, ((0, 0),))
    assert encode_segment(segment) == golden
    assert decode_segment(golden) == segment


def test_a_descriptor_without_index_leaves_it_out() -> None:
    golden = (
        b'{"completed":true,"created_at":0,"end_offset":15,"etag":null,'
        b'"segment_id":"00000000000000000015-0000000001-beef.dnb1","size":90,"start_offset":15}'
    )
    danube, _ = split_segment(SECOND)
    assert encode_segment(danube) == golden
    assert decode_segment(golden) == danube


def test_danubes_sealed_marker_has_these_bytes() -> None:
    golden = (
        b'{"broker_id":10285063371164059634,"last_committed_offset":21,"sealed":true,'
        b'"timestamp":1768625254}'
    )
    marker = SealedState(True, 21, 10285063371164059634, 1768625254)
    assert compact(marker) == golden
    assert parse(golden, SealedState) == marker


def test_danubes_pointer_has_these_bytes() -> None:
    assert encode_cur(30) == b'{"start":"00000000000000000030"}'


def test_text_is_written_as_danube_writes_it() -> None:
    assert (
        compact({"b": 'é"\\\n\x01\x7f', "a": None})
        == b'{"a":null,"b":"\xc3\xa9\\"\\\\\\n\\u0001\x7f"}'
    )


def test_a_descriptor_is_split_and_joined() -> None:
    for d in (FIRST, SECOND, *segments(3, entries=4)):
        danube, ours = split_segment(d)
        again = decode_segment(encode_segment(danube)), Details.decode(compact(ours))
        assert join_segment(*again) == d


@pytest.mark.parametrize(
    "change",
    [
        {"object_id": "another"},
        {"end": 14},
        {"times": ()},
    ],
)
def test_details_of_another_object_are_refused(change: dict[str, Any]) -> None:
    danube, ours = split_segment(FIRST)
    with pytest.raises(ValueError, match="to danube-trio"):
        join_segment(danube, attrs.evolve(ours, **change))


def test_head_and_epoch_come_back() -> None:
    head = Head.of(STATE)
    assert Head.decode(compact(head)).joined(STATE.segments) == STATE
    entry = EpochEntry(3, "me")
    assert compact(entry) == b'{"epoch":3,"format":1,"writer":"me"}'
    assert EpochEntry.decode(compact(entry)) == entry


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Head.decode, b'{"format":2}'),
        (EpochEntry.decode, b'{"format":2}'),
        (Details.decode, b'{"format":2}'),
    ],
)
def test_newer_entries_are_refused(kind: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(NewerFormatError):
        kind(data)


def test_the_keys_are_danubes() -> None:
    keys = TopicKeys.of("/danube-data", "/default/reliable_topic")
    base = "/danube-data/storage/topics/default/reliable_topic"
    assert keys.segment(0) == f"{base}/segments/00000000000000000000"
    assert keys.current == f"{base}/segments/cur"
    assert keys.sealed == f"{base}/state"
    assert keys.objects == "storage/topics/default/reliable_topic/segments"
    assert (keys.epoch, keys.head) == (f"{base}/epoch", f"{base}/head")
    assert TopicKeys.start_of(keys.segment(2**64 - 1)) == 2**64 - 1
    assert TopicKeys.start_of(keys.current) is None


@pytest.mark.parametrize("topic", ["/default/orders", "default/orders"])
def test_a_leading_slash_of_a_topic_is_dropped(topic: str) -> None:
    assert normalise_topic(topic) == "default/orders"


@pytest.mark.parametrize(
    "topic",
    [
        *("", "/", "orders", "/orders", "//default/orders", "/a/b/c", "/a//b", "/a/", "/a/b/"),
        *("/a/..", "/./b", "/a/b\n", "/a/b\0"),
    ],
)
def test_topics_that_danube_would_confuse_are_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="topic="):
        normalise_topic(topic)


@pytest.mark.parametrize("root", ["", "danube", "/danube/", "/", "//danube"])
def test_a_bad_root_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="root="):
        TopicKeys.of(root, "/a/b")
