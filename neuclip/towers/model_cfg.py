"""What the `model_cfg` of a model folder says of its text tower."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import TextTowerKind
from neuclip.towers.exports import ANYWHERE, INSIDE, Export
from neuclip.towers.text_kind import TextKind

_KINDS: TypeAdapter[TextKind] = TypeAdapter(TextTowerKind)


def text_kind(model_cfg: dict[str, Any]) -> TextKind | None:
    """Return the text tower that neuclip builds, None if open_clip builds it.

    Raises: ConfigError: if there is no such kind, or it has other fields.
    """
    text_cfg = model_cfg["text_cfg"]
    if not isinstance(text_cfg, dict) or "kind" not in text_cfg:
        return None
    try:
        return _KINDS.validate_python(text_cfg)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"text_cfg of the architecture names the text tower {text_cfg['kind']!r}, which is none of this neuclip: "
            f"{problem['msg']}"
        ) from error


def text_exports(model_cfg: dict[str, Any]) -> frozenset[Export]:
    """Return who reads the model folder beside neuclip.

    Raises: ConfigError: as text_kind.
    """
    kind = text_kind(model_cfg)
    if kind is not None:
        return kind.exports
    return INSIDE if "hf_model_name" in model_cfg["text_cfg"] else ANYWHERE
