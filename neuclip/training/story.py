"""What training tells of a pair."""

from neuclip.index.sample_index import SIGNALS
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.telling import Pair, Told


def tell(pair: Pair, uri: str) -> Told:
    """Tell the signals of a pair whose sample's id the shard stage has noted."""
    if not holds_file(uri, SIGNALS):
        return {"signals": None}, "training recorded no signals: train with train.signals: true"
    row = pair.one(
        "SELECT * FROM read_parquet($path) WHERE sample_id = $sample_id",
        committed_file(uri, SIGNALS),
        sample_id=pair.known["sample_id"],
    )
    return {"signals": row}, ""
