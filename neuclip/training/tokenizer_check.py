"""What can be known of a recipe's tokenizer before a model is built: room for texts, and a table of priorities."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from neuclip.foundation.errors import ConfigError
from neuclip.stages.keys import fingerprint
from neuclip.storage.files import read_bytes
from neuclip.tokens.config import SyntaxConfig, TextTokensConfig
from neuclip.tokens.priorities import (
    priorities_of,
    read_table,
    require_table,
    shipped_tables,
)
from neuclip.tokens.tokenizer_files import TOKENIZER
from neuclip.towers.hugging_face_text import TEXT_CONFIG, most_tokens
from neuclip.training.config import TrainConfig
from neuclip.training.tokens import sized

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_OF_OPEN_CLIP = "clip_bpe"
_SPECIALS_OF_OPEN_CLIP = 2


def table_inputs(config: TrainConfig) -> dict[str, str]:
    """Return the fingerprints of the tables of priorities that the recipe names, by place in it."""
    tables: dict[str, str] = {}
    for number, flat in enumerate(config.by_phase()):
        if isinstance(flat.text_tokens, SyntaxConfig) and flat.text_tokens.table is not None:
            tables[f"table {number}"] = fingerprint(flat.text_tokens.table, (".json",))
    return tables


def check_tokenizer(config: TrainConfig, files: Mapping[str, bytes]) -> None:
    """Check text lengths and policies of all phases against the tokenizer, and the text tower's positions.

    Args:
        files: of `ModelConfig.files`: the recipe's own tokenizer and text tower, if it has any.
    Raises: ConfigError: saying which phase does not fit, and what to change.
    """
    phases = config.by_phase()
    # Loading it is left out where the architecture's own length and the tokenizer's own cut are all there is.
    asks = any(flat.context_length or flat.text_tokens.name != "truncate" for flat in phases)
    tokenizer = _own_tokenizer(files) if asks else None
    for number, flat in enumerate(phases):
        try:
            _check_length(flat, tokenizer, files)
            _check_policy(flat.text_tokens, tokenizer)
        except ConfigError as error:
            where = f"train.phases[{number}]: " if config.phases else "train: "
            raise ConfigError(f"{where}{error}") from error


def _own_tokenizer(files: Mapping[str, bytes]) -> "Tokenizer | None":
    if TOKENIZER not in files:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(files[TOKENIZER])
    except Exception as error:  # tokenizers raises nothing more exact
        raise ConfigError(
            f"{TOKENIZER} cannot be read: {error}; save the tokenizer anew with `save_pretrained`"
        ) from error


def _check_length(
    config: TrainConfig, tokenizer: "Tokenizer | None", files: Mapping[str, bytes]
) -> None:
    length = sized(config.model.model_cfg(), config)["text_cfg"].get("context_length", 77)
    specials = _SPECIALS_OF_OPEN_CLIP
    if tokenizer is not None:
        specials = tokenizer.num_special_tokens_to_add(is_pair=False)
    if length <= specials:
        raise ConfigError(
            f"context_length {length} has no room for a text beside the tokenizer's {specials} special tokens; give "
            f"{specials + 1} or more"
        )
    most = most_tokens(json.loads(files[TEXT_CONFIG])) if TEXT_CONFIG in files else None
    if most is not None and length > most:
        raise ConfigError(
            f"context_length {length} is beyond the text tower's {most} positions; give {most} or less"
        )


def _check_policy(policy: TextTokensConfig, tokenizer: "Tokenizer | None") -> None:
    if not isinstance(policy, SyntaxConfig):
        return
    if tokenizer is not None:
        priorities_of(tokenizer.get_vocab(), policy.table)
    elif policy.table is not None:
        [own] = [file for file in shipped_tables() if file.name.startswith(_OF_OPEN_CLIP)]
        wanted = read_table(own.read_bytes(), own.name).vocabulary_sha256
        require_table(read_table(read_bytes(policy.table), policy.table), wanted, policy.table)
