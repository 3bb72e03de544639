"""The `train.model` section of a recipe."""

import importlib.util
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from neuclip.foundation.config import Section, keyed_if_set
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.foundation.names import in_known_case
from neuclip.foundation.untrusted_json import require_transformers
from neuclip.stages.keys import fingerprint
from neuclip.storage.files import read_bytes
from neuclip.storage.places import Place
from neuclip.storage.uris import join
from neuclip.tokens.tokenizer_files import (
    TOKENIZER,
    TOKENIZER_FILES,
    read_tokenizer,
)
from neuclip.towers.cached_features import CachedFeatures
from neuclip.towers.hugging_face_text import THIS_FOLDER, HuggingFaceText
from neuclip.towers.outside import WITH_TEXT_TOWER, WITH_TOKENIZER, outside_need

TextTowerKind = Annotated[HuggingFaceText | CachedFeatures, Field(discriminator="kind")]


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


def with_places(section: dict[str, Any], model_folder: str) -> dict[str, Any]:
    """Return the fields of a committed `train.model` with the places that keys leave out.

    Args:
        model_folder: of a checkpoint or a published model, which holds what lay there.
    """
    text_cfg = json.loads(read_bytes(join(model_folder, "open_clip_config.json")))["model_cfg"][
        "text_cfg"
    ]
    found = dict(section)
    if text_cfg.get("hf_tokenizer_name"):
        found["tokenizer"] = model_folder
    if "hf_model_name" in text_cfg:
        found["text"] = {**found["text"], "folder": model_folder}
    return found


class ModelConfig(Section):
    """Which CLIP to train: an open_clip architecture by name, or one written out."""

    name: str | None = Field(
        default=None, description="an architecture of open_clip, such as RN50 or ViT-B-32"
    )
    architecture: dict[str, Any] | None = Field(
        default=None,
        description="an open_clip model configuration written out: embed_dim, vision_cfg, text_cfg",
    )
    tokenizer: Place | None = Field(
        default=None,
        description="local folder or URI with tokenizer.json and tokenizer_config.json, which the model folder then "
        "holds; null is open_clip's own tokenizer, or that of `text`",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    text: TextTowerKind | None = keyed_if_set(
        default=None, description="a text tower in the place of the architecture's; null is its own"
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
        if self.tokenizer is not None and self.text is not None and self.text.reads_features:
            raise ValueError(
                f"tokenizer stands beside text.kind {self.text.kind}, which reads no tokens; leave one of them out"
            )
        known = known_architectures()
        if self.name is not None and self.name not in known:
            raise ValueError(
                f"name {self.name!r} is none of the {len(known)} architectures of open_clip.{nearest(self.name, known)}"
            )
        answered = WITH_TOKENIZER if self.tokenizer is not None else frozenset[str]()
        if isinstance(self.text, HuggingFaceText):
            answered |= WITH_TEXT_TOWER | WITH_TOKENIZER
        if (need := outside_need(self.model_cfg(), answered=answered)) is not None:
            raise ValueError(f"the architecture {self.name or 'written out here'} has {need}")
        return self

    def model_cfg(self) -> dict[str, Any]:
        """Return open_clip's `model_cfg` of the towers, as it stands in their model folder."""
        if self.name is None:
            written = deepcopy(self.architecture or {})
        else:
            written = json.loads(known_architectures()[self.name].read_text(encoding="utf-8"))
        if self.text is not None:
            written["text_cfg"] = self.text.text_cfg(written["text_cfg"])
        if self.tokenizer is not None and not written["text_cfg"].get("hf_tokenizer_name"):
            written["text_cfg"]["hf_tokenizer_name"] = THIS_FOLDER
        return written

    def inputs(self) -> dict[str, str]:
        """Return the fingerprints of the folders that are named, by name.

        Raises: DataError: if there is nothing in one.
        """
        inputs = {} if self.text is None else self.text.inputs()
        if self.tokenizer is not None:
            inputs["tokenizer"] = fingerprint(self.tokenizer, TOKENIZER_FILES)
        return inputs

    def files(self) -> dict[str, bytes]:
        """Return the files that the model folder holds beside configuration and weights: name -> content.

        Raises: ConfigError: if one is missing, must not be used, or needs a library that is not installed.
        """
        files = {} if self.text is None else self.text.files()
        if self.tokenizer is not None:
            files |= read_tokenizer(self.tokenizer)
        if files:
            require_transformers("a tokenizer or text tower from a folder", extra="hf")
        if self.model_cfg()["text_cfg"].get("hf_tokenizer_name") and TOKENIZER not in files:
            raise ConfigError(
                "train.model.text.folder has no tokenizer.json; give train.model.tokenizer, a folder with one"
            )
        return files
