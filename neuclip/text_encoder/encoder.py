"""Texts to features by a language model from a local folder.

Legend: B texts of a batch, L tokens, F width of a feature.
"""

import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError, NumericsError, ShapeError
from neuclip.foundation.untrusted_json import require_transformers
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join
from neuclip.text_encoder.config import EncoderSettings
from neuclip.text_encoder.folder import encoder_files, read_model_config, require_settings
from neuclip.text_encoder.record import (
    EncoderRecord,
    fingerprint_of,
)

Features = npt.NDArray[np.float16]
"""[texts, F], raw: of no particular norm."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
_SHOWN = 60
_FILLING = torch.iinfo(torch.int64).min


class TokenBatch(NamedTuple):
    """Texts as tokens, filled up on the right.

    Args:
        ids: token ids.
        is_text: what is no filling.
        is_pooled: the tokens whose states make up the feature.
    """

    ids: Int64[Tensor, "B L"]
    is_text: Bool[Tensor, "B L"]
    is_pooled: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "TokenBatch":
        """Copy all to a device."""
        return TokenBatch(*(x.to(device, non_blocking=True) for x in self))


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text.

    Args:
        first_pooled: place of the first token whose state counts.
        is_cut: the text is longer than the encoder reads.
    """

    ids: list[int]
    first_pooled: int
    is_cut: bool


class TextTokenizer:
    """The tokenizer of an encoder's folder.

    Args:
        place: local folder with the tokenizer's files.
        most: tokens of a text.
    Raises: ConfigError: if it cannot be loaded, or leaves no room for a text.
    """

    def __init__(self, place: Path, *, most: int, origin: str) -> None:
        from transformers import AutoTokenizer

        self._inner: Any = AutoTokenizer.from_pretrained(
            place, local_files_only=True, trust_remote_code=False
        )
        if not self._inner.is_fast:
            raise ConfigError(
                f"the tokenizer in {origin} is no fast one; save it with tokenizer.json"
            )
        self._most = most
        bare: list[int] = self._inner("a", add_special_tokens=False, verbose=False)["input_ids"]
        whole: list[int] = self._inner("a", verbose=False)["input_ids"]
        first = next(n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
        self._before, self._after = whole[:first], whole[first + len(bare) :]
        # What begins every text is a sink of attention, alike in all; BERT's has learnt to stand for the text.
        begins_alike = self._inner.bos_token_id, self._inner.cls_token_id
        self._skipped = sum(
            one == begins_alike[0] and one != begins_alike[1] for one in self._before
        )
        self.pad_id = int(self._inner.pad_token_id)
        if most <= len(self._before) + len(self._after):
            raise ConfigError(
                f"max_tokens {most} leaves no room for a text beside the {len(self._before) + len(self._after)} tokens "
                f"that the tokenizer in {origin} puts around it; give more"
            )

    def of(self, texts: Sequence[str], *, instruction: str = "") -> list[Tokens]:
        """Return the tokens of texts.

        Args:
            instruction: stands before each text; its tokens are read, and do not count in the feature.
        """
        plain: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
        before = list(self._before)
        if instruction:
            before += self._inner(instruction, **plain)["input_ids"]
        room = self._most - len(before) - len(self._after)
        found: list[list[int]] = self._inner(list(texts), **plain)["input_ids"] if texts else []
        return [
            Tokens(
                [*before, *ids[: max(room, 0)], *self._after],
                self._first(before, ids, has_instruction=bool(instruction)),
                len(ids) > room,
            )
            for ids in found
        ]

    def _first(self, before: list[int], ids: list[int], *, has_instruction: bool) -> int:
        if not ids and not self._after:
            return 0  # an empty text has the feature of what stands before it
        return len(before) if has_instruction else self._skipped

    def first_id(self, text: str) -> int:
        """Return the first token of a text."""
        return int(self._inner(text, add_special_tokens=False, verbose=False)["input_ids"][0])

    def batch(self, tokens: Sequence[Tokens]) -> TokenBatch:
        """Fill texts up to the length of the longest."""
        longest = max(len(one.ids) for one in tokens)
        ids = torch.full((len(tokens), longest), self.pad_id)
        is_text = torch.zeros(ids.shape, dtype=torch.bool)
        is_pooled = torch.zeros_like(is_text)
        for row, one in enumerate(tokens):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            is_text[row, : len(one.ids)] = True
            is_pooled[row, one.first_pooled : len(one.ids)] = True
        return TokenBatch(ids, is_text, is_pooled)


class TextEncoder:
    """A language model, its tokenizer, and how its states become features.

    Args:
        model: of the transformers library, without a head.
    """

    def __init__(self, model: nn.Module, tokenizer: TextTokenizer, record: EncoderRecord) -> None:
        self.model, self.tokenizer, self.record = model, tokenizer, record
        self._needs_all = _needs_all(model) and record.direction == "both"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def features(self, batch: TokenBatch) -> Float[Tensor, "B F"]:
        """Return raw features in float32; with a graph where one is wanted."""
        return pooled(self.states(batch).float(), batch.is_pooled, self.record.pooling)

    def states(self, batch: TokenBatch) -> Float[Tensor, "B L F"]:
        """Return the states that leave the model."""
        mask = batch.is_text
        if self._needs_all:
            # The library takes a mask of four dimensions as it is: every token sees all that is no filling.
            length = mask.shape[1]
            mask = mask[:, None, None, :].expand(-1, 1, length, length)
        # No cache is asked for: BERT's encoder would refuse the word.
        return self.model(input_ids=batch.ids, attention_mask=mask).last_hidden_state

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, batch_tokens: int = 16_384) -> tuple[Features, int]:
        """Return the features of texts in their order, rounded to float16, and how many texts were cut.

        A CPU encodes text by text: a text has the same feature to the bit in whatever company.

        Raises: NumericsError: naming the first text whose feature is not finite in float16.
            ConfigError: if a batch is too large for the device.
        """
        tokens = self.tokenizer.of(texts)
        features = np.empty((len(texts), self.record.width), np.float16)
        for rows in self._batches(tokens, batch_tokens):
            batch = self.tokenizer.batch([tokens[row] for row in rows]).to(self.device)
            features[rows] = self.rounded(batch).cpu().numpy()
        is_finite = np.isfinite(features).all(axis=1)
        if not is_finite.all():
            bad = texts[int(np.argmin(is_finite))]
            raise NumericsError(
                f"the encoder gives {int((~is_finite).sum())} of {len(texts)} texts a feature that is not finite in "
                f"float16, the first is that of {bad[:_SHOWN]!r}; set text_encoder.precision: float32, or take another "
                "model"
            )
        return features, sum(one.is_cut for one in tokens)

    @torch.no_grad()
    def rounded(self, batch: TokenBatch) -> Float16[Tensor, "B F"]:
        """Return features as they are kept.

        Raises: ConfigError: if the batch is too large for the device.
        """
        try:
            return self.features(batch).half()
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{tuple(batch.ids.shape)} tokens at once are too many for the memory beside the encoder; lower "
                "text_encoder.batch_tokens"
            ) from error

    @torch.no_grad()
    def of_packed(self, packed: Int64[Tensor, "B L"]) -> Float16[Tensor, "B F"]:
        """Return features of texts that were packed by `pack`, the same as `encode` gives."""
        batch = unpack(packed, self.tokenizer.pad_id)
        if self.device.type != "cpu":
            return self.rounded(batch)
        rows = [TokenBatch(*(x[row : row + 1] for x in batch)) for row in range(len(packed))]
        ends = [int(row.is_text.sum()) for row in rows]
        return torch.cat(
            [
                self.rounded(TokenBatch(*(x[:, :end] for x in row)))
                for row, end in zip(rows, ends, strict=True)
            ]
        )

    def _batches(self, tokens: Sequence[Tokens], most: int) -> Iterator[list[int]]:
        """Yield the rows that are encoded at once: texts of like length, filled up to `most` tokens."""
        if self.device.type == "cpu":
            yield from ([row] for row in range(len(tokens)))
            return
        rows: list[int] = []
        for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row].ids)):
            if rows and (len(rows) + 1) * len(tokens[row].ids) > most:
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows


def pack(batch: TokenBatch) -> Int64[Tensor, "B L"]:
    """Return a batch as one tensor: a token that is not pooled is ~id, filling is the least number there is."""
    ids = torch.where(batch.is_pooled, batch.ids, ~batch.ids)
    return torch.where(batch.is_text, ids, _FILLING)


def unpack(packed: Int64[Tensor, "B L"], pad_id: int) -> TokenBatch:
    """Return what was packed."""
    is_text, is_pooled = packed != _FILLING, packed >= 0
    ids = torch.where(is_pooled, packed, ~packed)
    return TokenBatch(torch.where(is_text, ids, pad_id), is_text, is_pooled)


def pooled(
    states: Float[Tensor, "B L F"], is_pooled: Bool[Tensor, "B L"], pooling: str
) -> Float[Tensor, "B F"]:
    """Return one feature a text: the mean of the states that count, or the last of them.

    States of filling count for nothing, whatever they hold.
    """
    if pooling == "last":
        places = torch.arange(is_pooled.shape[1], device=is_pooled.device)
        last = torch.where(is_pooled, places, -1).amax(dim=1)
        return states[torch.arange(len(states), device=states.device), last]
    kept = torch.where(is_pooled[..., None], states, 0.0)
    return kept.sum(dim=1) / is_pooled.sum(dim=1, keepdim=True)


def describe_encoder(folder_uri: str, settings: EncoderSettings) -> EncoderRecord:
    """Return what a folder's encoder is, after reading its small files and hashing its weights; nothing is loaded.

    Raises: ConfigError: if it cannot be an encoder.
    """
    width = require_settings(folder_uri, settings)
    names, config = encoder_files(folder_uri), read_model_config(folder_uri)
    chosen = {name: getattr(settings, name) for name in EncoderSettings.model_fields}
    return EncoderRecord(
        fingerprint=fingerprint_of(folder_uri, names, settings),
        model_type=str(config.get("model_type")),
        width=width,
        **chosen,
    )


def load_encoder(
    folder_uri: str, record: EncoderRecord, *, device: str | torch.device = "cpu"
) -> TextEncoder:
    """Load the encoder that a folder holds, in evaluation mode, without gradients.

    Raises: ConfigError: if the folder holds none, or the device has no room for it.
    """
    require_transformers("a language model as text encoder", extra="llm")
    with in_reach(folder_uri) as place:
        try:
            model = _model(place, record, origin=folder_uri)
            tokenizer = TextTokenizer(place, most=record.max_tokens, origin=folder_uri)
        except ConfigError:
            raise
        except Exception as error:  # the library and those below it raise whatever is at hand
            raise ConfigError(
                f"the encoder in {folder_uri} cannot be loaded: {error}. Save model and tokenizer anew with "
                "`save_pretrained`, or take another folder"
            ) from error
    try:
        model = model.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(p.nbytes for p in model.parameters()) / 2**30
        raise ConfigError(
            f"the encoder in {folder_uri} has {size:.3g} GiB of weights, which do not fit into the memory of {device}; "
            "set text_encoder.precision: bf16, take a smaller model, or a device with more memory"
        ) from error
    encoder = TextEncoder(model, tokenizer, record)
    _require_direction(encoder, origin=folder_uri)
    return encoder


def require_fingerprint(folder_uri: str, record: EncoderRecord) -> None:
    """Refuse a folder that is not the encoder of a record.

    Raises: ConfigError: with both fingerprints.
    """
    settings = EncoderSettings(
        **{name: getattr(record, name) for name in EncoderSettings.model_fields}
    )
    found = fingerprint_of(folder_uri, encoder_files(folder_uri), settings)
    if found != record.fingerprint:
        raise ConfigError(
            f"the encoder in {folder_uri} has fingerprint {found[:12]}, expected {record.fingerprint[:12]} "
            f"({record.model_type}, width {record.width}): its features would mean something else. Name the folder of "
            "the encoder that the model was trained with"
        )


@contextmanager
def in_reach(folder_uri: str) -> Generator[Path]:
    """Give the library a folder with the files of an encoder, and nothing else of theirs."""
    with tempfile.TemporaryDirectory() as place:
        for name in encoder_files(folder_uri):
            (Path(place) / name).symlink_to(local_copy(join(folder_uri, name)).absolute())
        yield Path(place)


def _model(place: Path, record: EncoderRecord, *, origin: str) -> nn.Module:
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model, found = AutoModel.from_pretrained(
        place,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=DTYPES[record.precision],
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"the weights in {origin} lack {missing[0]} and {len(missing) - 1} others of the model that its "
            "config.json describes; save the model anew with `save_pretrained`"
        )
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
    return model.eval()


def _needs_all(model: nn.Module) -> bool:
    """Tell whether a model lets tokens see those before them alone, unless it is told otherwise."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    config: Any = model.config
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(
        config, "is_decoder", False
    )
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not is_encoder


@torch.no_grad()
def _require_direction(encoder: TextEncoder, *, origin: str) -> None:
    """Refuse a model whose tokens do not see what the record says; and one of another width.

    Raises: ConfigError, ShapeError.
    """
    ids = encoder.tokenizer.of(["a b c d"])[0].ids
    ends = [ids, [*ids[:-1], 0 if ids[-1] else 1]]
    is_text = torch.ones(2, len(ids), dtype=torch.bool)
    first = torch.zeros_like(is_text)
    first[:, 0] = True
    batch = TokenBatch(torch.tensor(ends), is_text, first).to(encoder.device)
    one, other = encoder.features(batch)
    if len(one) != encoder.record.width:
        raise ShapeError(
            f"the encoder in {origin} makes features of width {len(one)}, and its config.json says "
            f"{encoder.record.width}; take the folder of a model without a head of its own"
        )
    sees_all = not torch.equal(one, other)
    if sees_all != (encoder.record.direction == "both"):
        has = "sees the whole text" if sees_all else "sees what is before it alone"
        raise ConfigError(
            f"text_encoder.direction is {encoder.record.direction}, and a token of the {encoder.record.model_type} "
            f"model in {origin} {has}, whatever it is told; set direction: {'both' if sees_all else 'causal'}"
        )
