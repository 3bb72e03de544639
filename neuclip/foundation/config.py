"""The base of every recipe section."""

from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from neuclip.foundation.names import with_known_names


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
            if isinstance(extra, dict) and extra.get("keyed") is False:
                continue
            keyed[name] = _keyed(getattr(self, name), dumped[name])
        return keyed


def _keyed(value: Any, dumped: Any) -> Any:  # noqa: ANN401  # any value of a field
    """Return what counts of a field: of a section, and of the sections in a list, their keyed fields."""
    if isinstance(value, Section):
        return value.keyed()
    if isinstance(value, list):
        return [_keyed(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def unkeyed(default: Any, **constraints: Any) -> Any:  # noqa: ANN401  # stands where Field() stands
    """Declare a field that changes only how fast an output appears, never its content."""
    return Field(default, json_schema_extra={"keyed": False}, **constraints)
