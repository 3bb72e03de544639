"""YAML as recipes are written in it: plain values within limits, and what is wrong with a text in one line."""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import yaml

from neuclip.foundation.errors import ConfigError

_MOST_BYTES = 4 << 20
_MOST_DEPTH = 50
_MOST_NODES = 200_000
_MOST_NUMBER = 10**18
_MOST_DIGITS = 80
_MOST_SHOWN = 200
_FIELD = re.compile(r"[a-z_]{1,24}|\d{1,3}")
_LEFT_AS_TEXT = (":timestamp", ":value")


class _Loader(yaml.CSafeLoader):
    """Booleans and numbers as in YAML 1.1; dates stay text, keys are text, and none stands twice."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_LEFT_AS_TEXT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: bytes | str) -> Any:  # noqa: ANN401  # any YAML value
    """Return the value that a text holds.

    Raises: ConfigError: with line and column, and nothing of the text but names such as fields have.
    """
    if len(text) > _MOST_BYTES:
        raise ConfigError(
            f"it has {len(text):,} bytes and at most {_MOST_BYTES:,} are read; name large inputs by their URI"
        )
    try:
        sizes = _Sizes()
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            sizes.take(event)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{_place(error.problem_mark or error.context_mark)}{error.problem or error.context}; check quotes, "
            "colons, brackets and the indentation there (spaces, no tabs)"
        ) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(
            "it has bytes that are no text; save it as UTF-8 without control characters"
        ) from error


def said_of(value: Any) -> str:  # noqa: ANN401  # any YAML value
    """Return what stands in a recipe in words: short values as they are, of others their kind."""
    match value:
        case bool():
            return str(value).lower()
        case None | dict() | list():
            return kind_of(cast("Any", value))
        case str() if len(value) > _MOST_SHOWN:
            return kind_of(value)
        case _:
            return repr(value)


def kind_of(value: Any) -> str:  # noqa: ANN401  # any YAML value
    """Return what stands somewhere in words, without quoting it."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a section with fields"
        case list():
            return "a list"
        case str():
            return f"a text of {len(value):,} characters"
        case _:
            return "true or false" if isinstance(value, bool) else "a number"


@dataclass
class _Open:
    """A list or section whose end has not come yet."""

    anchor: str | None
    nodes: int = 1
    height: int = 1


class _Sizes:
    """How large and how deep a text grows with its aliases, before anything is built of it."""

    def __init__(self) -> None:
        self._finished: dict[str, tuple[int, int]] = {}
        self._above = [_Open(None)]

    def take(self, event: Any) -> None:  # noqa: ANN401  # the events share no base with these fields
        """Follow the next event; refuse what is beyond the limits."""
        if getattr(event, "tag", None):
            raise _wrong(
                event, "a tag (!...) is not read here; write plain text, numbers, lists and fields"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            self._above.append(_Open(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._above.pop()
            self._add(done.anchor, done.nodes, done.height)
        elif isinstance(event, yaml.AliasEvent):
            if any(node.anchor == event.anchor for node in self._above):
                raise _wrong(
                    event, f"{_named(event.anchor, mark='*')} stands inside of what it names"
                )
            self._add(None, *self._finished.get(event.anchor, (1, 1)))
        elif isinstance(event, yaml.ScalarEvent):
            if "\0" in event.value:
                raise _wrong(event, "the text has a NUL character, which no name or path can have")
            self._add(event.anchor, 1, 1)
        now = self._above[-1]
        if now.nodes > _MOST_NODES:
            raise _wrong(
                event,
                f"with its aliases it has more than {_MOST_NODES:,} values; name large inputs by their URI",
            )
        if len(self._above) + now.height > _MOST_DEPTH:
            raise _wrong(event, f"it is nested more than {_MOST_DEPTH} deep")

    def _add(self, anchor: str | None, nodes: int, height: int) -> None:
        if anchor is not None:
            self._finished[anchor] = (nodes, height)
        self._above[-1].nodes += nodes
        self._above[-1].height = max(self._above[-1].height, 1 + height)


def _wrong(found: yaml.Event | yaml.Node, what: str) -> ConfigError:
    return ConfigError(f"{_place(found.start_mark)}{what}")


def _place(mark: Any) -> str:  # noqa: ANN401  # a mark of the C parser or of Python's
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


def _named(name: str, mark: str = "") -> str:
    """Return a name that may be a field's; any file may be tried as a recipe, so others are not quoted."""
    return f"{mark}{name}" if _FIELD.fullmatch(name) else "a name"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Build a mapping, of whose keys none may stand twice; a merge may be overruled, as YAML has it."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(key, "a list or section stands where the name of a field is expected")
        if key.value in seen:
            raise _wrong(key, f"{_named(key.value)} stands twice in this section; keep one of them")
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    value = _MOST_NUMBER
    if len(node.value) <= _MOST_DIGITS:
        value = loader.construct_yaml_int(node)
    if abs(value) >= _MOST_NUMBER:
        raise _wrong(node, f"the number is beyond {_MOST_NUMBER:.0e}, which no field takes")
    return value


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise _wrong(node, "infinity and nan are no numbers of a recipe; give one, or null")
    return value


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
