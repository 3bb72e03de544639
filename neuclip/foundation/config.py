"""The base of every recipe section."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the recipe; a field that does not exist is an error, not a silent typo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
