"""What an open_clip configuration must not name: models of a hub, weights to be fetched, files elsewhere, chance."""

from collections.abc import Collection, Iterator
from typing import Any, cast

_HUB_FIELDS = ("hf_", "pretrained", "trust_remote_code")
_SOURCE_CHARACTERS = frozenset("/\\:")
"""In a name of timm's or open_clip's they lead to a hub or a folder; no setting of a layer has them."""
_LONGEST_SHOWN = 80

WITH_TOKENIZER = frozenset({"text_cfg.hf_tokenizer_name"})
"""Fields that a tokenizer's files in the folder answer: open_clip takes those, whatever the field names."""
WITH_TEXT_TOWER = frozenset(
    {"text_cfg.hf_model_name", "text_cfg.hf_pooler_type", "text_cfg.hf_proj_type"}
)
"""Fields that a text tower's configuration in the folder answers."""
_INSTEAD = dict.fromkeys(
    WITH_TEXT_TOWER,
    "give train.model.text: {kind: hugging_face, folder: ...}, a local folder with config.json; a model folder holds "
    "that file itself",
) | dict.fromkeys(
    WITH_TOKENIZER,
    "give train.model.tokenizer, a local folder with tokenizer.json and tokenizer_config.json; a model folder holds "
    "these files itself",
)
_ELSE = "take towers and a tokenizer that open_clip or timm build themselves, with new weights"


def outside_need(model_cfg: Any, *, answered: Collection[str] = ()) -> str | None:  # noqa: ANN401  # what a file holds
    """Say which field of a `model_cfg` needs a network, a file that is not in its folder, or chance; None if none does.

    Args:
        answered: fields whose files are in the folder.
    """
    for place, value in _fields(model_cfg):
        field = place.rpartition(".")[2].lower()
        shown = repr(value)[:_LONGEST_SHOWN]
        if place in answered:
            continue
        if value and any(name in field for name in _HUB_FIELDS):
            return f"{place} = {shown}, which would be fetched from a network; {_INSTEAD.get(place, _ELSE)}"
        if value and "reduction_mask" in field:
            return (
                f"{place} = {shown}, by which the tokenizer draws tokens at random at each call (syntax fetches data "
                "from a network too), so that no run could be resumed exactly; leave it out, texts are then cut at "
                "their end"
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
