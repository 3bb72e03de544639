"""What the index tells of a pair."""

import duckdb

from neuclip.index.database import INDEX
from neuclip.stages.committed import committed_file
from neuclip.stages.telling import Pair, Told, records

_QUERIES = {
    "samples": "SELECT sample_id FROM samples WHERE sample_id = $1",
    "clusters": "SELECT model, cluster FROM clusters WHERE sample_id = $1",
    "features": "SELECT model, len(image_feature) AS width FROM features WHERE sample_id = $1",
}


def tell(pair: Pair, uri: str) -> Told:
    """Tell of a pair whose sample's id the shard stage has noted."""
    sample_id = pair.known["sample_id"]
    with duckdb.connect(str(committed_file(uri, INDEX)), read_only=True) as index:
        known = {table: records(index, query, [sample_id]) for table, query in _QUERIES.items()}
    if not known["samples"]:
        return {}, f"the index has no sample {sample_id}: run `--only index --force`"
    return {
        "sample_id": sample_id,
        "clusters": known["clusters"],
        "features": known["features"],
    }, ""
