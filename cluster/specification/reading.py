"""Read a specification from strict YAML, JSON and ``--set`` overrides."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import yaml
from yaml.composer import ComposerError

from ...errors import ConfigError, first_line, shown
from ...storage.safe_reading import read_json, read_regular
from ...training.section import MOST_DEPTH
from .preset_files import preset_folder, preset_names

_MOST_BYTES = 2**20
_MOST_NODES = 20_000  # keys, values and lists, with every alias expanded
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


_KINDS = {
    _TAG + "bool": "true or false",
    _TAG + "null": "null",
    _TAG + "int": "a number",
    _TAG + "float": "a number",
}


class _Loader(yaml.SafeLoader):
    """Loader for a specification's YAML: keys are unique text, and values are limited to the types of JSON.

    Numbers follow YAML 1.2: 1e-4 is a number; 010 and 1:30, which YAML 1.1 reads as 8 and 90, are text, and so
    are dates.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, with limits on the depth and the expanded size of the document."""
        event = self.peek_event()
        self._depth += 1
        self._count += 1
        if self._depth > MOST_DEPTH:
            raise ComposerError(None, None, f"more than {MOST_DEPTH} nested levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if node.tag not in _KNOWN_TAGS:
            raise ComposerError(None, None, f"the tag {shown(node.tag)} is not accepted", node.start_mark)
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._sizes:
            raise ComposerError(None, None, f"*{event.anchor} is inside its own anchor", event.start_mark)
        self._sizes[id(node)] = size = self._size(node)
        if max(size, self._count) > _MOST_NODES:
            raise ComposerError(None, None, f"more than {_MOST_NODES:,} values", event.start_mark)
        return node

    def _size(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[id(each)] for pair in node.value for each in pair)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[id(each)] for each in node.value)
        return 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; a key that is not text, or is given twice, is an error."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TAG + "str", _TAG + "merge"):
                word = unquoted(key.value, 60) if isinstance(key, yaml.ScalarNode) else f"(a {key.id})"
                kind = _KINDS.get(key.tag, "a complex value")
                raise ComposerError(
                    None, None, f"the key {word} is {kind}, not text; quote it", key.start_mark
                )
            if key.value in lines:
                raise ComposerError(
                    None,
                    None,
                    f"the key {shown(key.value)} is given twice, first in line {lines[key.value]}; keep one",
                    key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    (
        "bool",
        r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$",
        "yYnNtTfFoO",
    ),
    ("int", r"^[-+]?(?:0|[1-9][\d_]*|0x[\da-fA-F]+|0o[0-7]+)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        "-+.0123456789",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), list(_first))


def read_specification(source: str) -> dict[str, Any]:
    """Return the values of a preset, or of a YAML or JSON file.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping of sections.
    """
    name = unquoted(source)
    if source in preset_names():
        text = (preset_folder() / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        text = _read_file(source)
    try:
        values = read_json(text) if source.lower().endswith(".json") else parse_yaml(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} line {error.lineno}: not valid JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not valid YAML: {yaml_fault(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected sections such as `data:`, found {type(values).__name__}")
    return values


def unquoted(text: str, length: int = 160) -> str:
    """Return a text as ``shown`` does, without the enclosing quotes."""
    quoted = shown(text, length)
    return quoted[1:].removesuffix(quoted[0])


def _read_file(source: str) -> str:
    try:
        content = read_regular(source, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        nearest = difflib.get_close_matches(source, preset_names(), 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(
            f"{shown(source, 160)} is neither a file nor a preset (presets: {', '.join(preset_names())}){hint}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{unquoted(source)}: cannot be read as a specification: it is not UTF-8 text"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise ConfigError(f"{unquoted(source)}: cannot be read as a specification: {reason}") from None
    return content


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document.

    Raises:
        yaml.YAMLError: The text is not YAML, or has a construct that a specification does not accept.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        # For example a number with thousands of digits, `!!bool perhaps`, or a merge of a non-mapping.
        raise yaml.YAMLError(f"a value cannot be read ({shown(first_line(error))})") from None


def yaml_fault(error: yaml.YAMLError) -> str:
    """Describe a YAML error on one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or error.context or "it cannot be read"
    else:
        problem = getattr(error, "reason", None) or first_line(error)
    line = " ".join(str(problem).split())
    return line if len(line) <= 160 else line[:159] + "…"


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> list[str]:
    """Apply each override of the form ``a.b=c`` in place.

    Returns:
        The faults of invalid overrides, which are not applied.
    """
    faults: list[str] = []
    given: dict[tuple[str, ...], Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        keys = tuple(key.strip() for key in path.split("."))
        if not equals or not all(keys) or len(keys) > MOST_DEPTH:
            faults.append(
                f"--set {unquoted(item, 60)}: expected section.key=value, for example --set search.num_trials=8"
            )
            continue
        try:
            value = parse_yaml(text) if text else ""
        except yaml.YAMLError as error:
            faults.append(
                f"--set {unquoted(item, 60)}: the value is not valid YAML ({yaml_fault(error)}); quote it"
            )
            continue
        name = unquoted(".".join(keys), 60)
        lost = next((each for each in given if each[: len(keys)] == keys and each != keys), None)
        if lost is not None:
            faults.append(f"--set {name}: overwrites --set {'.'.join(lost)}; put it before that one")
        elif keys in given and given[keys] != value:
            faults.append(f"--set {name}: given twice, as {shown(given[keys])} and {shown(value)}; keep one")
        given[keys] = value
        _set(values, keys, value)
    return faults


def _set(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    at = values
    for key in keys[:-1]:
        if not isinstance(at.get(key), dict):
            at[key] = {}
        at = at[key]
    at[keys[-1]] = value
