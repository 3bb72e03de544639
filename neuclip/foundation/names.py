"""Names that a recipe chooses from, found whatever their case."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel

_TAGS = ("name", "kind")
"""Fields that tell the members of a union apart."""


def in_known_case(name: str, known: Iterable[str]) -> str:
    """Return the known name that is meant; the name as it is where none is, or more than one."""
    known = list(known)
    if name in known:
        return name
    meant = [one for one in known if one.casefold() == name.strip().casefold()]
    return meant[0] if len(meant) == 1 else name


def with_known_names(value: Any, annotation: Any) -> Any:  # noqa: ANN401  # any value and type of a field
    """Return a field's value with every name that its type lists in the type's own case."""
    members = _members(annotation)
    if isinstance(value, str):
        known = [one for kind in members if get_origin(kind) is Literal for one in get_args(kind)]
        return in_known_case(value, (one for one in known if isinstance(one, str)))
    if isinstance(value, list):
        inner = _inner(members, (list, tuple), place=0)
        return [with_known_names(one, inner) for one in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        fields = cast("Mapping[Any, Any]", value)
        inner = _inner(members, (dict,), place=1)
        if inner is not None:
            return {name: with_known_names(one, inner) for name, one in fields.items()}
        return _with_known_tags(fields, members)
    return value


def _inner(members: list[Any], kinds: tuple[type, ...], *, place: int) -> Any:  # noqa: ANN401
    """Return the type of what a list or a mapping holds, None where there is no such type."""
    return next((get_args(kind)[place] for kind in members if get_origin(kind) in kinds), None)


def _with_known_tags(fields: Mapping[Any, Any], members: list[Any]) -> Mapping[Any, Any]:
    """Return a section whose `name` or `kind` is one that a member of the union has."""
    sections = [kind for kind in members if isinstance(kind, type) and issubclass(kind, BaseModel)]
    known = {tag: [one for section in sections for one in _names(section, tag)] for tag in _TAGS}
    return {
        field: in_known_case(found, known[field])
        if isinstance(found, str) and known.get(field)
        else found
        for field, found in fields.items()
    }


def _names(section: type[BaseModel], tag: str) -> tuple[Any, ...]:
    info = section.model_fields.get(tag)
    return get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()


def _members(annotation: Any) -> list[Any]:  # noqa: ANN401  # any type
    """Return the types that a type may be, without annotations and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [one for kind in get_args(annotation) for one in _members(kind)]
    return [annotation]
