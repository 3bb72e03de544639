"""A text tower of the transformers library, from a local folder."""

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import read_json, require_no_code, require_no_kernels
from neuclip.stages.keys import fingerprint
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, read_bytes
from neuclip.storage.places import Place
from neuclip.storage.uris import join
from neuclip.tokens.tokenizer_files import TOKENIZER, read_tokenizer
from neuclip.towers.exports import INSIDE, Export
from neuclip.towers.text_kind import TextKind

if TYPE_CHECKING:
    from neuclip.towers.towers import Towers

TEXT_CONFIG = "config.json"
THIS_FOLDER = "."
"""Stands in a model folder for the place of the text tower's configuration and of the tokenizer."""
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-]+\.safetensors")
_KEPT_OF_ANY = ("context_length", "output_tokens")
_KEPT_OF_ITS_KIND = ("tokenizer_kwargs", "tokenizer_mode", "hf_proj_type", "hf_pooler_type")

TYPES = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")
"""`model_type` of the towers that open_clip can build."""
_COUNTS_FROM_PAD = ("roberta", "xlm-roberta")
_NOT_KEPT = ("torch_dtype", "dtype", "_name_or_path")
"""Of a config.json: towers are trained and published in float32, and no path of a machine is."""


class HuggingFaceText(TextKind):
    """An encoder of Hugging Face's format in a local folder, as open_clip's HFTextEncoder pools and projects it."""

    exports: ClassVar[frozenset[Export]] = INSIDE

    kind: Literal["hugging_face"]
    folder: Place = Field(
        description="local folder or URI with config.json, tokenizer.json unless train.model.tokenizer is given, and "
        "*.safetensors for `weights: folder`",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    weights: Literal["folder", "new"] = Field(
        default="folder", description="the weights that training starts with"
    )
    context_length: int | None = Field(
        default=None, ge=2, description="tokens of a text; null is the architecture's, or 77"
    )
    pooling: Literal["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] | None = Field(
        default=None, description="open_clip's pooler; null is the architecture's, or mean_pooler"
    )
    projection: Literal["linear", "mlp"] | None = Field(
        default=None,
        description="from pooled states to features; null is the architecture's, or linear",
    )

    def text_cfg(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return open_clip's text_cfg: the tower's configuration lies in the model folder."""
        kept = _KEPT_OF_ANY + (_KEPT_OF_ITS_KIND if "hf_model_name" in before else ())
        chosen = {
            "context_length": self.context_length,
            "hf_pooler_type": self.pooling,
            "hf_proj_type": self.projection,
        }
        return {
            "context_length": 77,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            **{name: before[name] for name in kept if name in before},
            **{name: value for name, value in chosen.items() if value is not None},
            "hf_model_name": THIS_FOLDER,
            "hf_tokenizer_name": THIS_FOLDER,
        }

    def inputs(self) -> dict[str, str]:
        """Return the fingerprint of what is read of the folder."""
        weights = (".safetensors", _WEIGHTS_INDEX) if self.weights == "folder" else ()
        return {"text folder": fingerprint(self.folder, (TEXT_CONFIG, TOKENIZER, *weights))}

    def files(self) -> dict[str, bytes]:
        """Return configuration and, if the folder has one, tokenizer.

        Raises: ConfigError: if the folder is none of a tower that can be built here.
        """
        if self.weights == "folder":
            self._weight_files()
        tokenizer = read_tokenizer(self.folder) if exists(join(self.folder, TOKENIZER)) else {}
        return {TEXT_CONFIG: read_text_config(self.folder), **tokenizer}

    def put_weights(self, towers: "Towers") -> None:
        """Load the folder's weights into the tower; the projection stays new.

        Raises: ConfigError: if they do not fill it.
        """
        if self.weights == "new":
            return
        tower: Any = cast("Any", towers.model).text.transformer
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / TEXT_CONFIG).write_bytes(towers.files[TEXT_CONFIG])
            for name in self._weight_files():
                path = local_copy(join(self.folder, name)).absolute()
                (Path(place) / name).symlink_to(path)
            tower.load_state_dict(_loaded(Path(place), tower, origin=self.folder))

    def _weight_files(self) -> list[str]:
        """Return the names of the files with weights, and of their index if there are several.

        Raises: ConfigError: if there are none but pickles, or none at all.
        """
        if exists(join(self.folder, _WEIGHTS)):
            return [_WEIGHTS]
        index = join(self.folder, _WEIGHTS_INDEX)
        if not exists(index):
            pickles = ("pytorch_model.bin", "pytorch_model.bin.index.json")
            found = [name for name in pickles if exists(join(self.folder, name))]
            why = f"; {found[0]} is a pickle, which is never opened" if found else ""
            raise ConfigError(
                f"train.model.text.folder {self.folder} has no {_WEIGHTS}{why}. Save the model with "
                "`save_pretrained(folder, safe_serialization=True)`, or set train.model.text.weights: new"
            )
        names = read_json(read_bytes(index), index).get("weight_map")
        if not isinstance(names, dict) or not all(
            isinstance(name, str) and _SHARD.fullmatch(name) for name in names.values()
        ):
            raise ConfigError(
                f"{index} does not list files beside it as `weight_map`; save the model anew with `save_pretrained`"
            )
        return [_WEIGHTS_INDEX, *sorted(set(cast("dict[str, str]", names).values()))]


def read_text_config(folder_uri: str) -> bytes:
    """Return the configuration of a text tower, as it stands in a model folder.

    Raises: ConfigError: if there is none, or open_clip cannot build it from this folder alone.
    """
    where = join(folder_uri, TEXT_CONFIG)
    if not exists(where):
        raise ConfigError(
            f"{folder_uri} has no {TEXT_CONFIG}; expected the folder of a text model of the transformers library, as "
            "`save_pretrained` writes it, in train.model.text.folder"
        )
    config = read_json(read_bytes(where), where)
    require_no_code(where, config)
    if config.get("model_type") not in TYPES:
        raise ConfigError(
            f"{where} is of model_type {config.get('model_type')!r}; open_clip builds text towers of "
            f"{', '.join(TYPES)}. Take a model of these"
        )
    if not isinstance(config.get("pad_token_id"), int):
        raise ConfigError(
            f"{where} has no pad_token_id, which the tower masks padding by; set it to the tokenizer's"
        )
    require_no_kernels(where, config)
    kept = {name: value for name, value in config.items() if name not in _NOT_KEPT}
    return (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode()


def most_tokens(config: dict[str, Any]) -> int | None:
    """Return how long a text the tower of a config.json can read, in tokens; None if any length."""
    positions = config.get("max_position_embeddings")
    if positions is None or config["model_type"] == "mt5":
        return None
    taken = config["pad_token_id"] + 1 if config["model_type"] in _COUNTS_FROM_PAD else 0
    return int(positions) - taken


def _loaded(place: Path, tower: Any, *, origin: str) -> dict[str, Any]:  # noqa: ANN401
    """Return the weights of a folder by the names of a tower that open_clip built.

    Raises: ConfigError: if one is missing, which the library would fill with random numbers.
    """
    import torch
    from transformers import AutoModel

    try:
        model, found = AutoModel.from_pretrained(
            place,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"the weights in {origin} do not fit its {TEXT_CONFIG}: {error}. Save both anew with `save_pretrained`, "
            "or set train.model.text.weights: new"
        ) from error
    if model.config.is_encoder_decoder:
        model = model.encoder
    weights = {
        name: value for name, value in model.state_dict().items() if name in tower.state_dict()
    }
    missing = sorted(
        name
        for name in found["missing_keys"]
        if name.removeprefix("encoder.") in weights or name in weights
    )
    if missing:
        raise ConfigError(
            f"the weights in {origin} lack {missing[0]} and {len(missing) - 1} others of the tower that its "
            f"{TEXT_CONFIG} describes; take the folder of the encoder itself, or set train.model.text.weights: new"
        )
    return weights
