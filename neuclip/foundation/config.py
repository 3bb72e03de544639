"""The base of every recipe section."""

from collections.abc import Iterator
from typing import Annotated, Any, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from neuclip.foundation.names import with_known_names

RESERVED = object()
"""Marks a field, `Annotated[type, RESERVED]`, that names a program, a machine or an address: it stands in a recipe's
file or on the command line alone, never in the parameters of a deployment, and is not published."""


_IF_SET = "if set"


class Section(BaseModel):
    """A frozen part of the recipe; a field that does not exist is an error, not a silent typo.

    Names that a field chooses from are found whatever their case; numbers are finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _names_in_any_case(cls, fields: Any) -> Any:  # noqa: ANN401  # what stands in a recipe
        if not isinstance(fields, dict):
            return fields
        return {
            name: with_known_names(value, cls.model_fields[name].annotation)
            if name in cls.model_fields
            else value
            for name, value in cast("dict[Any, Any]", fields).items()
        }

    def keyed(self) -> dict[str, Any]:
        """Return the fields that can change a stage's output, JSON-ready: what a key is made of."""
        keyed: dict[str, Any] = {}
        dumped = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            counts = extra.get("keyed") if isinstance(extra, dict) else None
            value = getattr(self, name)
            if counts is False or (counts == _IF_SET and value == info.default):
                continue
            keyed[name] = _keyed(value, dumped[name])
        return keyed


def _keyed(value: Any, dumped: Any) -> Any:  # noqa: ANN401  # any value of a field
    """Return what counts of a field: of a section, and of sections in a list or by name, their keyed fields."""
    if isinstance(value, Section):
        return value.keyed()
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        return {name: _keyed(inner[name], dumped[name]) for name in inner}
    if isinstance(value, list):
        return [_keyed(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def unkeyed(default: Any, **constraints: Any) -> Any:  # noqa: ANN401  # stands where Field() stands
    """Declare a field that changes only how fast an output appears, never its content."""
    return Field(default, json_schema_extra={"keyed": False}, **constraints)


def keyed_if_set(default: Any, **constraints: Any) -> Any:  # noqa: ANN401  # stands where Field() stands
    """Declare a field whose default is what every stage did before there was the field: such keys stay as they were."""
    return Field(default, json_schema_extra={"keyed": _IF_SET}, **constraints)


def marks_of(info: FieldInfo) -> list[Any]:
    """Return what a field's type is annotated with, at any depth: RESERVED for example."""
    return [*info.metadata, *_marks_in(info.annotation)]


def _marks_in(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  # any type
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from inner[1:]
        inner = inner[:1]
    for argument in inner:
        yield from _marks_in(argument)


def models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401  # a type, a union or an annotated one
    """Return the models that a field's type is made of."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def reserved_in(model: type[BaseModel], content: Any, place: str = "") -> dict[str, Any]:  # noqa: ANN401  # as YAML gives it
    """Return what a section's content sets of reserved fields, before it is checked: dotted place -> value."""
    found: dict[str, Any] = {}
    if not isinstance(content, dict):
        return found
    for name, value in cast("dict[Any, Any]", content).items():
        info = model.model_fields.get(name)
        if info is None:
            continue
        where = f"{place}.{name}" if place else name
        if RESERVED in marks_of(info):
            found[where] = value
            continue
        items: Any = enumerate(value) if isinstance(value, list) else ()
        if isinstance(value, dict):
            items = cast("dict[Any, Any]", value).items()
        for inner in models_in(info.annotation):
            found |= reserved_in(inner, value, where)
            for label, item in items:
                found |= reserved_in(inner, item, f"{where}.{label}")
    return found
