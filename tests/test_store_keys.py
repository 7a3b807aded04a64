"""Keys, and where lists begin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danube_trio.cloud._keys import as_bytes, check_key, is_key, safe_offset

keys = st.lists(st.text(alphabet="/-.09aAz~é", min_size=1, max_size=3), min_size=1, max_size=3).map(
    "/".join
)


@given(keys, st.sampled_from(["", "p", "p/a"]), keys)
def test_where_a_list_begins_leaves_out_nothing_on_any_server(
    key: str, prefix: str, after: str
) -> None:
    """Neither for whole keys, nor for keys part by part with directories that count as passed."""
    beginning = prefix and f"{prefix}/"
    key, after = beginning + key, beginning + after
    offset = safe_offset(beginning, after)
    assert offset <= after
    if key > after and offset:
        assert key > offset
        parts = key.split("/")
        marker = offset.split("/")
        assert parts > marker
        assert parts[: len(marker)] != marker


@pytest.mark.parametrize(
    ("after", "offset"),
    [
        ("", ""),
        ("other/5", ""),
        ("p", ""),
        ("p/00012", "p/00011~"),
        ("p/00120", "p/0011~"),
        ("p/00000", ""),
        ("p/00012-0005-ab", "p/00011~"),
        ("p/a/b", "p/a/a~"),
        ("p/é", ""),
        ("p/aé", "p/`~"),
    ],
)
def test_where_a_list_begins(after: str, offset: str) -> None:
    assert safe_offset("p/", after) == offset


def test_the_longest_key_has_900_bytes() -> None:
    assert is_key("x" * 900)
    assert is_key("ü" * 450)
    with pytest.raises(ValueError, match="901 bytes"):
        check_key("x" * 901)


def test_an_object_is_made_of_bytes() -> None:
    assert as_bytes(bytearray(b"12")) == as_bytes(memoryview(b"12")) == b"12"
    wrong: Any
    for wrong in (12, "12", None):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            as_bytes(wrong)
