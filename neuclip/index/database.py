"""The tables of the index, and how they are filled from the parts of the shard stage."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from neuclip.foundation.errors import IntegrityError
from neuclip.shards.members import TRAIN
from neuclip.stages.manifest import Manifest

INDEX = "index.duckdb"

_MEMORY_LIMIT = "1GB"
"""DuckDB's own count; some allocations come on top."""
_THREADS = 2

# Rows are stored in the order of their ids, so that zone maps find a sample without an index; many uids are found
# faster by a join, which scans the two narrow columns once, than by an index that would have to be built.
_TABLES = """
    CREATE TABLE parts (part VARCHAR NOT NULL, first_sample_id BIGINT NOT NULL, samples BIGINT NOT NULL);
    CREATE TABLE samples (
        sample_id BIGINT NOT NULL, uid VARCHAR NOT NULL, uid_hi UBIGINT NOT NULL, uid_lo UBIGINT NOT NULL,
        shard VARCHAR NOT NULL, image_member VARCHAR, image_offset BIGINT, image_size BIGINT,
        json_offset BIGINT, json_size BIGINT, width INTEGER, height INTEGER, image_sha256 VARCHAR);
    CREATE TABLE features (
        sample_id BIGINT NOT NULL, model VARCHAR NOT NULL, image_feature FLOAT[], text_feature FLOAT[]);
    CREATE TABLE clusters (sample_id BIGINT NOT NULL, model VARCHAR NOT NULL, cluster INTEGER NOT NULL);
    CREATE TABLE sample_statistics (
        sample_id BIGINT NOT NULL, step BIGINT NOT NULL, visits BIGINT,
        log_normalizer_image FLOAT, log_normalizer_text FLOAT, loss FLOAT);"""

_ADD = """
    INSERT INTO samples
    SELECT sample_id, uid, ('0x' || uid[1:16])::UBIGINT, ('0x' || uid[17:32])::UBIGINT, shard, image_member,
           image_offset, image_size, json_offset, json_size, width, height, image_sha256
    FROM read_parquet($members) WHERE split = $split"""

_ADD_FEATURES = """
    INSERT INTO features
    SELECT sample_id, $model, image_feature, text_feature FROM read_parquet($features) ORDER BY sample_id"""

_FACTS = """
    SELECT (SELECT count(*) FROM samples), (SELECT count(*) FROM (SELECT DISTINCT uid_hi, uid_lo FROM samples)),
           (SELECT count(*) FROM samples WHERE rowid <> sample_id)"""


class IndexDatabase:
    """An index that is being built: a new file, or a copy of an earlier one to which parts are added."""

    def __init__(self, path: Path, *, scratch: Path) -> None:
        is_new = not path.exists()
        self.connection = duckdb.connect(str(path))
        self.connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
        self.connection.execute(f"SET threads = {_THREADS}")
        self.connection.execute("SET temp_directory = $1", [str(scratch)])
        if is_new:
            self.connection.execute(_TABLES)

    def __enter__(self) -> "IndexDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def add_parts(self, parts: Sequence[tuple[Manifest, Path]]) -> None:
        """Append the training samples of parts and their member tables; several at once keep all cores at work."""
        for part, _ in parts:
            row = [part.key, part.summary["first_sample_id"], part.ledger.out]
            self.connection.execute("INSERT INTO parts VALUES ($1, $2, $3)", row)
        members = [str(path) for _, path in parts]
        self.connection.execute(_ADD, {"members": members, "split": TRAIN})

    def add_features(self, features: Path, *, model: str) -> None:
        """Append the features of a part's samples."""
        self.connection.execute(_ADD_FEATURES, {"features": str(features), "model": model})

    def check(self, expected: int) -> None:
        """Make sure that ids are 0 .. n-1 in order, and uids different.

        Raises: IntegrityError: with what was found.
        """
        found = self.connection.execute(_FACTS).fetchall()[0]
        count, uids, misplaced = (int(number) for number in found)
        if not count == uids == expected or misplaced:
            raise IntegrityError(
                f"the member tables hold {count} training samples with {uids} different uids, {misplaced} of them not "
                f"at the place of their sample id; expected {expected} of each and none misplaced: "
                "run `--only shard --force`"
            )
