"""What the caption stage tells of a pair."""

from neuclip.captions.files import CAPTIONS
from neuclip.stages.committed import committed_file
from neuclip.stages.telling import Pair, Told


def tell(pair: Pair, uri: str) -> Told:
    """Tell the captions of a pair."""
    row = pair.one(
        "SELECT captions FROM read_parquet($path) WHERE uid = $uid", committed_file(uri, CAPTIONS)
    )
    if row is None:
        return {}, "it has no caption in caption.sources"
    return {"captions": dict(row["captions"])}, ""
