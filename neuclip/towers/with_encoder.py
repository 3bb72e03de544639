"""Towers that read features of texts, with the encoder that makes them at hand: for scoring and for use."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from neuclip.foundation.errors import ConfigError
from neuclip.text_encoder.encoder import (
    TextEncoder,
    TextTokenizer,
    in_reach,
    load_encoder,
    require_fingerprint,
)
from neuclip.text_encoder.record import ENCODER, EncoderRecord, parse_record
from neuclip.text_encoder.remembered import RememberedFeatures
from neuclip.towers.model_cfg import text_kind
from neuclip.towers.towers import Towers


def reads_features(towers: Towers) -> bool:
    """Tell whether the text tower reads features of an encoder in place of tokens."""
    kind = text_kind(towers.architecture)
    return kind is not None and kind.reads_features


def with_encoder(towers: Towers, encoder_folder: str) -> Towers:
    """Return towers that take texts: each is encoded once on this machine, by the encoder that belongs to the model.

    Args:
        encoder_folder: any URI; hashed first, and loaded when a text comes that was not encoded before.
    Raises: ConfigError: if it is another encoder, or the towers read none.
    """
    if not reads_features(towers):
        raise ConfigError("the text tower reads tokens and takes no encoder; load it without one")
    record = parse_record(towers.files[ENCODER], f"{ENCODER} of the model")
    require_fingerprint(encoder_folder, record)
    return replace(towers, tokenize=_ByEncoder(encoder_folder, record, towers.device))


def with_features(towers: Towers, features: Mapping[str, Tensor]) -> Towers:
    """Return towers that take the texts whose features are given: text -> float16 [F]."""

    def tokenize(texts: list[str]) -> Tensor:
        return torch.stack([features[text] for text in texts])

    return replace(towers, tokenize=tokenize)


class _ByEncoder:
    """Texts to features; the encoder is loaded when it is needed, its tokenizer likewise."""

    def __init__(self, folder: str, record: EncoderRecord, device: torch.device) -> None:
        self._folder, self._record, self._device = folder, record, device
        self._features = RememberedFeatures(record, lambda texts: self._encoder.encode(texts)[0])

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.from_numpy(self._features.of(texts))

    def count_cut(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the encoder reads."""
        return sum(one.is_cut for one in self._tokenizer.of(texts))

    @cached_property
    def _encoder(self) -> TextEncoder:
        return load_encoder(self._folder, self._record, device=self._device)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        with in_reach(self._folder) as place:
            return TextTokenizer(place, most=self._record.max_tokens, origin=self._folder)
