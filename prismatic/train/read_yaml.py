"""YAML of options, read without surprises: no key twice."""

from __future__ import annotations

from typing import Any

import yaml

from prismatic.errors import ConfigError


def read_yaml(text: str, *, where: str) -> Any:
    """Return the value of a YAML text. where: its file or option, for errors.

    Raises yaml.YAMLError, and ConfigError for a mapping with a key twice, of which YAML would keep the last.
    """
    loader = _Loader(text)
    loader.name = where
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. Merged ones (<<) may have keys that its own replace."""
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise ConfigError(
                    f"{self.name}: the key {key.value!r} is given twice, in lines {first} and {line}. Keep one of them."
                )
            lines[key.tag, key.value] = line
        return super().construct_mapping(node, deep=deep)
