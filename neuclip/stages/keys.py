"""Keys: the hash that says whether a stage has been done with this recipe and these inputs."""

import hashlib
import json
from typing import Any

from neuclip.foundation.errors import DataError
from neuclip.storage.files import exists, expand, version_tag
from neuclip.storage.uris import name_of

KEY_LENGTH = 20


def digest(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """Hash a JSON value in its one canonical form; hex, KEY_LENGTH digits."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def stage_key(stage: str, version: int, section: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the key of a stage: its name, its version, its part of the recipe and the keys of its inputs."""
    return digest({"stage": stage, "version": version, "section": section, "inputs": inputs})


def fingerprint(uri: str, suffixes: tuple[str, ...]) -> str:
    """Return the fingerprint of an input that no stage made: of one file, or of the files of a folder.

    Raises: DataError: if there is nothing to read.
    """
    files = [file for file in expand(uri, suffixes) if exists(file)]
    if not files:
        raise DataError(
            f"expected a file ({', '.join(suffixes)}) or a folder of them at {uri}, found none; "
            "check the path in the recipe"
        )
    return digest([[name_of(file), version_tag(file)] for file in files])
