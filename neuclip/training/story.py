"""What training tells of a pair."""

from neuclip.index.sample_index import STATISTICS
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.telling import Pair, Told


def tell(pair: Pair, uri: str) -> Told:
    """Tell the per-sample statistics of a pair whose sample's id the shard stage has noted."""
    if not holds_file(uri, STATISTICS):
        return {
            "sample_statistics": None
        }, "training recorded no statistics of samples: train with train.sample_statistics: true"
    row = pair.one(
        "SELECT * FROM read_parquet($path) WHERE sample_id = $sample_id",
        committed_file(uri, STATISTICS),
        sample_id=pair.known["sample_id"],
    )
    return {"sample_statistics": row}, ""
