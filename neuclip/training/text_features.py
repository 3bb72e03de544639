"""A run whose text tower reads features: of the side files, or of the frozen encoder in each batch."""

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Int64
from torch import Tensor

from neuclip.foundation.errors import ConfigError, IntegrityError
from neuclip.index.side_files import feature_records
from neuclip.loading.views import Tokenize
from neuclip.loading.visits import Visit
from neuclip.stages.manifest import read_manifest
from neuclip.text_encoder.encoder import TextTokenizer, load_encoder, pack
from neuclip.text_encoder.folder import require_width
from neuclip.text_encoder.record import ENCODER, EncoderRecord
from neuclip.text_encoder.run import committed_encoder
from neuclip.towers.adapter import FeatureAdapter
from neuclip.towers.cached_features import CachedFeatures
from neuclip.towers.towers import Towers
from neuclip.training.config import TrainConfig
from neuclip.training.job import TrainJob


def reads_cached(config: TrainConfig) -> bool:
    """Tell whether the text tower reads features that were made before."""
    text = config.model.text
    return isinstance(text, CachedFeatures) and not text.online


def encoder_record_of(job: TrainJob) -> EncoderRecord | None:
    """Return the record of the encoder whose features the run reads; None if it reads none, or is measured alone.

    Raises: ConfigError: if they are of another width than the text tower reads.
    """
    text = job.config.model.text
    if not isinstance(text, CachedFeatures) or job.text_encoder_uri is None:
        return None
    record = EncoderRecord.model_validate(read_manifest(job.text_encoder_uri).summary["encoder"])
    require_width(record.width, text.width, record.model_type)
    return record


def encoder_files_of(job: TrainJob) -> dict[str, bytes]:
    """Return what the model folder holds of the encoder: its record."""
    record = encoder_record_of(job)
    return {} if record is None else {ENCODER: record.to_bytes()}


def put_encoder(towers: Towers, job: TrainJob) -> None:
    """Give the text tower its encoder, if it is to encode texts in each batch."""
    text, record = job.config.model.text, encoder_record_of(job)
    if not (isinstance(text, CachedFeatures) and text.online and record and job.text_encoder_uri):
        return
    folder = committed_encoder(job.text_encoder_uri)
    adapter = cast("FeatureAdapter", cast("Any", towers.model).text)
    adapter.put_encoder(load_encoder(str(folder), record, device=towers.device))


def towers_tokens(towers: Towers) -> Tokenize | None:
    """Return what makes tokens of texts for a tower that has its encoder at hand; None for other towers."""
    adapter = getattr(towers.model, "text", None)
    if not isinstance(adapter, FeatureAdapter) or adapter.encoder is None:
        return None
    return _Tokens(adapter.encoder.tokenizer)


class _Tokens:
    """Texts to tokens of the encoder, packed; travels to loading processes without the encoder."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(
        self, texts: list[str], visits: Sequence[Visit], view: str
    ) -> Int64[Tensor, "B L"]:
        del visits, view
        return pack(self._tokenizer.batch(self._tokenizer.of(texts)))


def check_features(job: TrainJob) -> str:
    """Check that the index has the features that the recipe's texts need, of the encoder at hand.

    Raises: ConfigError, IntegrityError: saying what is missing.
    """
    record = encoder_record_of(job)
    if record is None:
        return "the text tower reads tokens"
    if not reads_cached(job.config):
        return f"the encoder ({record.model_type}) runs in every batch"
    found: dict[str, Any] = read_manifest(job.index_uri).summary.get("text_encoder", {})
    if found.get("fingerprint") != record.fingerprint:
        raise IntegrityError(
            f"the index {job.index_uri} has features of the encoder {str(found.get('fingerprint'))[:12]}, expected "
            f"{record.fingerprint[:12]}; run `--from index`"
        )
    there = feature_records(job.index_uri)
    missing = [source for source in job.config.all_caption_sources if source not in there]
    if missing:
        raise ConfigError(
            f"train.captions names {missing[0]!r}, whose texts were not encoded; encoded are {', '.join(there)}. Name "
            "it in text_encoder.sources, or leave that out, and run `--from text_encoder`"
        )
    return f"features of {', '.join(there)} by {record.model_type}, width {record.width}"
