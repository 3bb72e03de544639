"""Features of texts that were encoded on this machine before, by encoder and text: class prompts, evaluation texts.

A text is known by its SHA-256, in one SQLite file for each encoder's fingerprint in the cache folder of the user.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from neuclip.storage.cache_folder import cache_folder
from neuclip.text_encoder.encoder import Features
from neuclip.text_encoder.record import EncoderRecord

_BUSY_S = 60.0
_AT_ONCE = 512


class RememberedFeatures:
    """Encodes the texts that it does not know, each once.

    Args:
        record: of the encoder; its fingerprint names the file.
        encode: makes features of texts in order; called for those that are not known, so an encoder that is loaded by
            it stays out of memory where all are.
    """

    def __init__(self, record: EncoderRecord, encode: Callable[[Sequence[str]], Features]) -> None:
        self._width, self._encode = record.width, encode
        folder = cache_folder() / "text_features"
        folder.mkdir(parents=True, exist_ok=True)
        self._path: Path = folder / f"{record.fingerprint}.sqlite"

    def of(self, texts: Sequence[str]) -> Features:
        """Return features in the order of the texts, float16 [N, F]."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        unknown = dict(zip(keys, texts, strict=True))
        with closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS features (text BLOB PRIMARY KEY, feature BLOB)"
            )
            known = self._known(database, list(unknown))
            missing = [key for key in unknown if key not in known]
            for first in range(0, len(missing), _AT_ONCE):
                some = missing[first : first + _AT_ONCE]
                made = self._encode([unknown[key] for key in some])
                known |= dict(zip(some, made, strict=True))
                rows = [(key, known[key].astype("<f2").tobytes()) for key in some]
                with database:
                    database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", rows)
        found = np.empty((len(texts), self._width), np.float16)
        for row, key in enumerate(keys):
            found[row] = known[key]
        return found

    def _known(self, database: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, Features]:
        known: dict[bytes, Features] = {}
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            rows = database.execute(
                f"SELECT text, feature FROM features WHERE text IN ({marks})",  # noqa: S608  # question marks alone
                some,
            )
            for key, feature in rows:
                values = np.frombuffer(feature, "<f2")
                if len(values) == self._width:
                    known[key] = values.astype(np.float16)
        return known
