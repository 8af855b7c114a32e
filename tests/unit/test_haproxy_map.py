"""One value of a map file is changed and put back; every other byte stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.levers.haproxy import value_in, with_value
from curb.stream.errors import PermanentError
from tests.fakes.haproxy import MAP


def test_values_are_found_by_the_whole_key() -> None:
    assert [value_in(MAP, key) for key in ("sk-one", "nightly", "sk-one-more", "sk", "requests")] == [
        "600",
        "300",
        "7",
        None,
        None,
    ]
    assert value_in("a\n", "a") == ""


@pytest.mark.parametrize("text", [MAP, MAP + "\n", MAP.replace("\n", "\r\n"), "", "\n\n", "# only this"])
@pytest.mark.parametrize("key", ["sk-one", "nightly", "sk-one-more", "new"])
def test_a_value_goes_in_and_back_byte_for_byte(text: str, key: str) -> None:
    before = value_in(text, key)
    less = with_value(text, key, "5")
    assert value_in(less, key) == "5"
    others = {"sk-one", "nightly", "sk-one-more", "new"} - {key}
    assert [value_in(less, other) for other in others] == [value_in(text, other) for other in others]
    assert with_value(less, key, before) == text


LINES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 99)), unique_by=lambda line: line[0])


@given(LINES, st.permutations("uvw"), st.sampled_from([" ", "\t", "   "]), st.sampled_from(["\n", "\r\n"]))
def test_new_keys_go_out_in_any_order(lines: list[tuple[str, int]], order: list[str], gap: str, end: str) -> None:
    text = found = "".join(f"{key}{gap}{value}{end}" for key, value in lines)
    for key in "uvw":
        text = with_value(text, key, "1")
    for key in order:
        text = with_value(text, key, None)
    assert text == found


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    assert with_value(MAP, "nobody", None) == MAP


def test_two_lines_of_one_key_are_refused() -> None:
    with pytest.raises(PermanentError, match="2 lines of one key"):
        value_in("a 1\na 2\n", "a")
