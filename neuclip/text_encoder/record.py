"""`encoder.json`: what an encoder is, without a word of where it lies; features and adapters belong to one."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.errors import CheckpointError
from neuclip.storage.cache import local_copy
from neuclip.storage.fingerprints import sha256_of_file
from neuclip.storage.uris import join
from neuclip.text_encoder.config import (
    FEATURES_VERSION,
    Direction,
    EncoderSettings,
    Pooling,
    Precision,
)

ENCODER = "encoder.json"


class EncoderRecord(BaseModel):
    """What an encoder's features depend on.

    Args:
        fingerprint: hash of its files and of all settings below that change features.
        width: of a feature.
        instructions: what stands before a query, by what is looked for; documents, and all texts that a CLIP is trained
            and evaluated on, have none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    model_type: str
    width: int
    pooling: Pooling
    direction: Direction
    max_tokens: int
    precision: Precision
    instructions: dict[str, str] = {}

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def parse_record(content: bytes, where: str) -> EncoderRecord:
    """Read an encoder.json.

    Raises: CheckpointError: if it is none.
    """
    try:
        return EncoderRecord.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise CheckpointError(
            f"{where} is no record of a text encoder: {place}: {problem['msg']}; bring it back as the stage "
            "text_encoder left it"
        ) from error


def fingerprint_of(folder_uri: str, names: Iterable[str], settings: EncoderSettings) -> str:
    """Return the fingerprint of an encoder: of the content of its files, and of how its states become features."""
    hashes = {name: sha256_of_file(local_copy(join(folder_uri, name))) for name in names}
    return fingerprint_from(hashes, settings)


def fingerprint_from(hashes: Mapping[str, str], settings: EncoderSettings) -> str:
    """Return the fingerprint of an encoder, given the SHA-256 of its files by name."""
    made_of = {
        "version": FEATURES_VERSION,
        "files": dict(hashes),
        **{name: getattr(settings, name) for name in EncoderSettings.model_fields},
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
