"""The `train.model` section of a recipe."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from neuclip.foundation.config import Section
from neuclip.foundation.errors import nearest
from neuclip.foundation.names import in_known_case
from neuclip.towers.outside import outside_need


@cache
def known_architectures() -> dict[str, Path]:
    """Find the architectures that open_clip ships, without importing it (which takes seconds): name -> file."""
    found = importlib.util.find_spec("open_clip")
    folders = (found.submodule_search_locations if found else None) or []
    return {
        path.stem: path
        for folder in folders
        for path in sorted((Path(folder) / "model_configs").glob("*.json"))
    }


class ModelConfig(Section):
    """Which CLIP to train: an open_clip architecture by name, or one written out."""

    name: str | None = Field(
        default=None, description="an architecture of open_clip, such as RN50 or ViT-B-32"
    )
    architecture: dict[str, Any] | None = Field(
        default=None,
        description="an open_clip model configuration written out: embed_dim, vision_cfg, text_cfg",
    )

    @field_validator("name")
    @classmethod
    def _in_any_case(cls, name: str | None) -> str | None:
        return name if name is None else in_known_case(name, known_architectures())

    @model_validator(mode="after")
    def _one_of_both(self) -> "ModelConfig":
        if (self.name is None) == (self.architecture is None):
            raise ValueError(
                "give either `name` (an open_clip architecture) or `architecture` (a configuration written out)"
            )
        if self.architecture is not None:
            missing = [
                part
                for part in ("embed_dim", "vision_cfg", "text_cfg")
                if part not in self.architecture
            ]
            if missing:
                raise ValueError(
                    f"an architecture needs embed_dim, vision_cfg and text_cfg; missing here: {', '.join(missing)}"
                )
        known = known_architectures()
        if self.name is not None and self.name not in known:
            raise ValueError(
                f"name {self.name!r} is none of the {len(known)} architectures of open_clip.{nearest(self.name, known)}"
            )
        if (need := outside_need(self._written_out())) is not None:
            raise ValueError(f"the architecture {self.name or 'written out here'} has {need}")
        return self

    def _written_out(self) -> dict[str, Any]:
        if self.name is None:
            return self.architecture or {}
        return json.loads(known_architectures()[self.name].read_text(encoding="utf-8"))
