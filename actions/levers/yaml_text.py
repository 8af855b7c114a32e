"""Changes to a YAML or JSON text that leave every other byte as it is, and that can be taken back byte for byte."""

from __future__ import annotations

from typing import Any

import yaml

from curb.stream.errors import PermanentError

Node = yaml.Node


class _Loader(yaml.SafeLoader):
    """Refuses aliases: the place of what they stand for is not where they stand."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise PermanentError("aliases (*name) are not supported")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def nodes(text: str) -> Node:
    """The tree of its nodes, which know where they stand. PermanentError when it is no YAML, empty or has aliases."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:  # its text shows a piece of the file, which may hold a secret
        mark = getattr(error, "problem_mark", None)
        raise PermanentError(f"no valid YAML{f' in line {mark.line + 1}' if mark else ''}") from None
    if root is None:
        raise PermanentError("there is nothing in it")
    return root


def child(node: Node | None, name: str) -> Node | None:
    """What a mapping holds under a name, spelled in snake_case or, as protobuf allows, in camelCase."""
    if not isinstance(node, yaml.MappingNode):
        return None
    first, *others = name.split("_")
    camel = first + "".join(part.capitalize() for part in others)
    return next((value for key, value in node.value if key.value in (name, camel)), None)


def sequence(node: Node | None) -> yaml.SequenceNode | None:
    """The node, if it is a sequence."""
    return node if isinstance(node, yaml.SequenceNode) else None


def items(node: Node | None) -> list[Node]:
    """The items of a sequence; none when it is something else."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def scalar(node: Node | None) -> str | None:
    """The value of a scalar."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def data(node: Node) -> Any:
    """What the node stands for."""
    return yaml.SafeLoader("").construct_object(node, deep=True)


def source(text: str, node: Node) -> str:
    """The node as it is written, without the space and the comments after it."""
    return text[node.start_mark.index : _end(node)]


def replaced(text: str, node: Node, new: str) -> str:
    """The text with `new` in place of the node."""
    return text[: node.start_mark.index] + new + text[_end(node) :]


def with_first(text: str, into: yaml.SequenceNode, item: str) -> str:
    """The text with one more item, of one line, at the head of a sequence; `without` is the way back."""
    start = into.start_mark.index
    if not into.flow_style:  # it begins at its first dash
        return f"{text[:start]}- {item}\n{' ' * into.start_mark.column}{text[start:]}"
    return f"{text[: start + 1]}{item}{', ' if into.value else ''}{text[start + 1 :]}"


def without(text: str, out_of: yaml.SequenceNode, item: Node) -> str:
    """The text without an item that `with_first` put in."""
    start, end = item.start_mark.index, _end(item)
    if out_of.flow_style:
        if text.startswith(", ", end):
            end += 2
        elif text.endswith(", ", 0, start):
            start -= 2
        return text[:start] + text[end:]
    if len(out_of.value) == 1:  # somebody took the others out
        return replaced(text, out_of, "[]")
    after = f"\n{' ' * out_of.start_mark.column}"
    dash = start - len("- ")
    if text.startswith(after, end):
        return text[:dash] + text[end + len(after) :]
    return text[:dash].rstrip(" ").removesuffix("\n") + text[end:]


def _end(node: Node) -> int:
    """Where it ends. A block ends with its last value: the mark of a block stands at what comes next."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    return int(node.end_mark.index)
