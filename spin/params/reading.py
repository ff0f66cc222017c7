"""Reading a YAML file of parameters as what it says: nothing twice, nothing that grows when it is read."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from spin.errors import ParamsError

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 20_000, 20
"""Of a parameter file: its size, its entries with every alias written out, and how deeply they lie in each other."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which for itself takes the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise ParamsError(
                        f"line {key_node.start_mark.line + 1} gives {key_node.value} a second time; remove one of them."
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# As YAML 1.2 and DVC have it, whose `-S` writes 0.00001 as 1e-05: a float needs no point and no sign of the exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Any:
    """Return what the file holds; raises `ParamsError` with one sentence where it cannot be meant."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ParamsError(f"{path} must be a parameter file of at most 1 MB; it is larger: give another.")
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}, 0) > MAX_NODES:
                raise ParamsError(
                    f"{path} must have at most {MAX_NODES} entries, aliases written out; shorten it."
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except ParamsError as error:
        raise ParamsError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, OSError) as error:
        detail = " ".join(str(error).split())
        raise ParamsError(f"{path} must be YAML, but it does not parse: {detail[:300]}") from None
    except RecursionError:
        raise ParamsError(f"{path} must not nest deeper than {MAX_DEPTH} levels; flatten it.") from None


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Entries below a node, with each alias counted as often as it stands; each node is looked at once."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # of a node inside itself
        inner = node.value if isinstance(node, (yaml.SequenceNode, yaml.MappingNode)) else []
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in parts)
    return known[id(node)]
