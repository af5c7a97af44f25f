"""YAML as people mean it: values alone, of a size that a person could have written."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""Values in one file, every alias counted as what it stands for: aliases of aliases are small on disk alone."""

_MOST_DIGITS = 100


def read_yaml(text: str) -> Any:
    """The value that a YAML text says.

    1e-5 is a number, and the no of ``save_strategy: no`` is a word. No tag makes an object, and nothing of it is run.

    Raises:
        yaml.YAMLError: no YAML, a tag that would make an object, a key twice in one mapping, or more than a person
            could have written.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters, and no more than {MOST_CHARACTERS:,} are read")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("its values are nested too deeply") from None
    except ValueError as error:  # a date such as 2024-13-40
        raise yaml.YAMLError(f"it holds a value that cannot be: {error}") from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class declares it)
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES:,} values; write them out")
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(str(node.value)) > _MOST_DIGITS:
            raise yaml.MarkedYAMLError(problem=f"a number of {len(node.value):,} digits", problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for with every alias written out. Raises YAMLError where it holds itself."""
    if id(node) not in known:
        known[id(node)] = -1  # under way
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            _no_key_twice(node)
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    if known[id(node)] < 0:
        raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=node.start_mark)
    return known[id(node)]


def _no_key_twice(node: yaml.MappingNode) -> None:
    """Of two values for one key the first would be lost in silence. A merged one (``<<``) is meant to be."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
            seen.add(key.value)
