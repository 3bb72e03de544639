"""The tokenizer of a model folder that has one of its own, held against the text tower that reads its ids."""

from pathlib import Path
from typing import Any, cast

import open_clip
from jaxtyping import Int64
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import require_transformers
from neuclip.towers.hugging_face_text import most_tokens

_SETTINGS = ("clean", "strip_sep_token", "language")
"""Of `text_cfg.tokenizer_kwargs`; others would reach Hugging Face's loader."""


def load_tokenizer(folder: Path, text_cfg: dict[str, Any], model: nn.Module, *, origin: str) -> Any:  # noqa: ANN401
    """Load a folder's tokenizer by open_clip's own reader.

    Args:
        folder: with open_clip_config.json and the tokenizer's files, checked by `read_tokenizer`.
        text_cfg: what stands in that configuration.
        model: what open_clip built of it.
        origin: where the tokenizer came from, for errors.
    Raises: ConfigError: if it cannot be loaded, or its ids do not fit the text tower.
    """
    require_transformers(f"the tokenizer in {origin}", extra="hf")
    unknown = [name for name in text_cfg.get("tokenizer_kwargs") or {} if name not in _SETTINGS]
    if unknown:
        raise ConfigError(
            f"text_cfg.tokenizer_kwargs.{unknown[0]} is no setting of a tokenizer in a folder; expected "
            f"{', '.join(_SETTINGS)}. Leave it out"
        )
    try:
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        sample = tokenizer(["a photo"])
    except Exception as error:  # transformers and tokenizers raise whatever is at hand
        raise ConfigError(
            f"the tokenizer in {origin} cannot be used: {error}. Expected a fast tokenizer with a pad token, as "
            "`save_pretrained` writes it"
        ) from error
    inner, text = cast("Any", tokenizer).tokenizer, cast("Any", getattr(model, "text", model))
    _require_ids(inner, text_cfg, vocab_size=text.vocab_size, origin=origin)
    if "hf_model_name" in text_cfg:
        _require_same_padding(inner, text.config.to_dict(), sample, origin=origin)
    elif not text_cfg.get("embed_cls"):
        _require_pooled_token(inner, text_cfg, sample, origin=origin)
    return tokenizer


def _require_ids(
    tokenizer: Any,  # noqa: ANN401  # of a library that need not be installed
    text_cfg: dict[str, Any],
    *,
    vocab_size: int,
    origin: str,
) -> None:
    """Refuse ids that the tower's embedding does not have."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ConfigError(
            f"the tokenizer in {origin} has ids up to {largest}, and the text tower reads ids below its vocab_size "
            f"{vocab_size}; take the tokenizer that belongs to the architecture, or write the architecture out with "
            f"text_cfg.vocab_size of {largest + 1} or more"
        )
    strips = (text_cfg.get("tokenizer_kwargs") or {}).get("strip_sep_token")
    if strips and tokenizer.sep_token_id is None:
        raise ConfigError(
            f"the tokenizer in {origin} has no sep_token, which text_cfg.tokenizer_kwargs.strip_sep_token takes out; "
            "take the tokenizer that belongs to the architecture"
        )


def _require_pooled_token(
    tokenizer: Any,  # noqa: ANN401  # of a library that need not be installed
    text_cfg: dict[str, Any],
    sample: Int64[Tensor, "1 L"],
    *,
    origin: str,
) -> None:
    """Refuse a tokenizer that does not write the token at which open_clip's tower takes its embedding."""
    pooling = text_cfg.get("pool_type", "argmax")
    ids = {"argmax": max(tokenizer.get_vocab().values()), "eos": text_cfg.get("eos_id", 2)}
    if pooling in ids and not bool((sample == ids[pooling]).any()):
        raise ConfigError(
            f"the text tower takes its embedding at token {ids[pooling]} (text_cfg.pool_type {pooling}), which the "
            f"tokenizer in {origin} does not put at the end of a text; write the architecture out with pool_type: eos "
            "and the tokenizer's eos_id, or with pool_type: last"
        )


def _require_same_padding(
    tokenizer: Any,  # noqa: ANN401  # of a library that need not be installed
    config: dict[str, Any],
    sample: Int64[Tensor, "1 L"],
    *,
    origin: str,
) -> None:
    """Refuse padding that the tower would read as text, and texts that are longer than it has positions."""
    if tokenizer.pad_token_id != config["pad_token_id"]:
        raise ConfigError(
            f"the tokenizer in {origin} pads with {tokenizer.pad_token_id}, and the text tower masks pad_token_id "
            f"{config['pad_token_id']} of its config.json; take the tokenizer that belongs to it"
        )
    most = most_tokens(config)
    if most is not None and sample.shape[1] > most:
        raise ConfigError(
            f"texts of {sample.shape[1]} tokens are longer than the text tower's {most} positions; set "
            f"train.model.text.context_length to {most} or less"
        )
