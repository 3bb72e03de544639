"""What an open_clip configuration must not name: models of a hub, weights to be fetched, files elsewhere."""

from collections.abc import Iterator
from typing import Any, cast

_HUB_FIELDS = ("hf_", "pretrained", "trust_remote_code")
_SOURCE_CHARACTERS = frozenset("/\\:")
"""In a name of timm's or open_clip's they lead to a hub or a folder; no setting of a layer has them."""
_LONGEST_SHOWN = 80


def outside_need(model_cfg: Any) -> str | None:  # noqa: ANN401  # what a file holds
    """Say which field of a `model_cfg` needs a network or a file that is not in its folder; None if none does."""
    for place, value in _fields(model_cfg):
        field = place.rpartition(".")[2].lower()
        shown = repr(value)[:_LONGEST_SHOWN]
        if value and any(name in field for name in _HUB_FIELDS):
            return (
                f"{place} = {shown}, which would be fetched from a network; take towers and a tokenizer that "
                "open_clip or timm build themselves, with new weights"
            )
        if isinstance(value, str) and (
            _SOURCE_CHARACTERS & set(value) or (value and field.endswith("_path"))
        ):
            return (
                f"{place} = {shown}, which names a network's model or a file elsewhere; a configuration names "
                "nothing but what open_clip and timm build themselves, without a source or a folder"
            )
    return None


def _fields(model_cfg: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  # any JSON value
    """List all fields, those that hold others too."""
    waiting: list[tuple[str, Any]] = [("", model_cfg)]
    while waiting:
        place, value = waiting.pop()
        if place:
            yield place, value
        inner: Any = enumerate(value) if isinstance(value, list) else ()
        if isinstance(value, dict):
            inner = cast("dict[Any, Any]", value).items()
        waiting += [(f"{place}.{name}" if place else str(name), found) for name, found in inner]
