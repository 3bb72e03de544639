"""Build the sample index: a DuckDB file, and its Parquet twin for readers without DuckDB."""

import duckdb

from neuclip.captions.run import CAPTIONS
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.index.config import IndexConfig
from neuclip.shards.run import MEMBERS
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.cache import local_copy
from neuclip.storage.tables import MEMORY_LIMIT
from neuclip.storage.uris import join

INDEX = "index.duckdb"
SAMPLES = "samples.parquet"

# Ids are stored in their order, so that DuckDB's zone maps find a sample or a uid's neighbourhood without an index.
_SAMPLES = """
    CREATE TABLE samples AS
    SELECT m.sample_id, m.uid,
           ('0x' || m.uid[1:16])::UBIGINT AS uid_hi, ('0x' || m.uid[17:32])::UBIGINT AS uid_lo,
           m.shard, m.image_member, m.image_offset, m.image_size, m.json_offset, m.json_size,
           m.width, m.height, m.image_sha256, c.captions
    FROM read_parquet($members) m JOIN read_parquet($captions) c ON m.uid = c.uid
    WHERE m.split = 'train' ORDER BY m.sample_id"""

_FACTS = """
    SELECT count(*), coalesce(min(sample_id), 0), coalesce(max(sample_id), -1), count(DISTINCT uid)
    FROM samples"""

_FEATURES = """
    CREATE TABLE features (
        sample_id BIGINT NOT NULL, model VARCHAR NOT NULL, image_feature FLOAT[], text_feature FLOAT[])"""


def run_index(
    config: IndexConfig,
    *,
    shard_uri: str,
    caption_uri: str,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Write `index.duckdb` and its twin `samples.parquet`.

    Tables: `samples`, and `features`, which is empty until a model has written some.

    Raises: IntegrityError: if ids are not exactly 0 .. n-1 in the order of the shards.
    """
    del config
    progress("index", done=0, total=1, note="building the sample index")
    for uri in (shard_uri, caption_uri):
        verify_sizes(uri, read_manifest(uri))
    members = str(local_copy(join(shard_uri, MEMBERS)))
    captions = str(local_copy(join(caption_uri, CAPTIONS)))
    with duckdb.connect(str(workspace.output / INDEX)) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET temp_directory = $1", [str(workspace.scratch)])
        connection.execute(_SAMPLES, {"members": members, "captions": captions})
        connection.execute(_FEATURES)
        facts = connection.execute(_FACTS).fetchall()[0]
        count, lowest, highest, uids = (int(fact) for fact in facts)
        connection.sql("SELECT * FROM samples ORDER BY sample_id").write_parquet(
            str(workspace.output / SAMPLES), compression="zstd"
        )
    if (lowest, highest, uids) != (0, count - 1, count):
        raise IntegrityError(
            f"sample ids of {shard_uri} are not 0 .. {count - 1}: lowest {lowest}, highest {highest}, {uids} uids; "
            "run `--only shard --force`"
        )
    entered = read_manifest(shard_uri).ledger.out
    progress("index", done=1, total=1, note=f"{count} samples")
    return Outcome(ledger=make_ledger(entered, count, {}), summary={"samples": count})
