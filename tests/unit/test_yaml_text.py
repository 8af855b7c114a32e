"""Surgery on YAML and JSON text: what is put in can be taken out byte for byte, and nothing else moves."""

from __future__ import annotations

import json
import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.levers import yaml_text
from curb.stream.errors import PermanentError

ITEM = '{"entries": [{"key": "api_key", "value": "k1"}], "token_bucket": {"max_tokens": 4}}'
SCALARS = st.integers(0, 999) | st.text("abc xyz-#:'\"", max_size=6) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=8,
)


def sequence(text: str) -> yaml.SequenceNode:
    found = yaml_text.sequence(yaml_text.child(yaml_text.nodes(text), "list"))
    assert found is not None
    return found


def written(data: object, style: str) -> str:
    if style == "json":
        return json.dumps(data)
    if style == "indented json":
        return json.dumps(data, indent=2) + "\n"
    data = json.loads(json.dumps(data))  # the same object twice would become an alias
    return str(yaml.safe_dump(data, default_flow_style=style == "flow", sort_keys=False, indent=2))


@given(st.lists(VALUES, max_size=4), VALUES, st.sampled_from(["json", "indented json", "flow", "block"]))
def test_an_item_goes_in_and_out_byte_for_byte(items: list[object], other: object, style: str) -> None:
    data = {"before": other, "list": items, "after": other}
    text = written(data, style)
    more = yaml_text.with_first(text, sequence(text), ITEM)
    assert yaml.safe_load(more) == data | {"list": [json.loads(ITEM), *items]}
    found = sequence(more)
    assert yaml_text.source(more, found.value[0]) == ITEM
    assert yaml_text.without(more, found, found.value[0]) == text


@given(st.permutations(range(3)), st.sampled_from(["list: []\n", "list:\n  - a  # the first\n\n  - b\nafter: 1\n"]))
def test_several_items_go_out_in_any_order(order: list[int], text: str) -> None:
    more = text
    for number in range(3):
        more = yaml_text.with_first(more, sequence(more), json.dumps({"item": number}))
    for number in order:
        (item,) = [each for each in sequence(more).value if yaml_text.data(each) == {"item": number}]
        more = yaml_text.without(more, sequence(more), item)
    assert more == text


BLOCKS = textwrap.dedent("""\
    # head
    list:
      - name: a     # one
        bucket:
          most:  600   # a minute's worth
          fill: 60s
        # about b
      - {name: b, bucket: {most: 1,fill: 1s}}
    """)


def test_a_value_is_replaced_and_put_back_with_its_comments() -> None:
    for number in (0, 1):
        bucket = yaml_text.child(sequence(BLOCKS).value[number], "bucket")
        assert bucket is not None
        found = yaml_text.source(BLOCKS, bucket)
        less = yaml_text.replaced(BLOCKS, bucket, '{"most": 4}')
        changed = yaml_text.child(sequence(less).value[number], "bucket")
        assert changed is not None
        assert yaml_text.data(changed) == {"most": 4}
        assert "# about b" in less
        assert yaml_text.replaced(less, changed, found) == BLOCKS
    assert "# a minute's worth" in yaml_text.source(BLOCKS, yaml_text.child(sequence(BLOCKS).value[0], "bucket"))  # type: ignore[arg-type]


def test_the_last_item_of_a_block_leaves_an_empty_list() -> None:
    text = f"list:\n  - {ITEM}\nafter: 1\n"
    assert yaml_text.without(text, sequence(text), sequence(text).value[0]) == "list:\n  []\nafter: 1\n"


def test_an_item_behind_others_goes_out_alone() -> None:
    for text, left in [
        ("list: [a, b]\n", "list: [a]\n"),
        ("list:\n  - a\n  - b\n", "list:\n  - a\n"),
        ("list:\n- a\n- b\n- c\n", "list:\n- a\n- c\n"),
    ]:
        found = sequence(text)
        assert yaml_text.without(text, found, found.value[1]) == left


def test_names_are_found_in_snake_and_in_camel_case() -> None:
    for text in ("token_bucket: 1", '{"tokenBucket": 1}'):
        assert yaml_text.scalar(yaml_text.child(yaml_text.nodes(text), "token_bucket")) == "1"
    assert yaml_text.child(yaml_text.nodes("[1]"), "token_bucket") is None
    assert yaml_text.child(None, "token_bucket") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "nothing in it"), ("a: &x [1]\nb: *x\n", "aliases"), ("key: 'sk-secret\n", "no valid YAML in line")],
)
def test_what_cannot_be_changed_safely_is_refused_without_showing_it(text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message) as caught:
        yaml_text.nodes(text)
    assert "sk-secret" not in str(caught.value)
