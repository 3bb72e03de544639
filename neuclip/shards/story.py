"""What the shard stage tells of a pair: where its bytes lie."""

from neuclip.shards.files import MEMBERS
from neuclip.stages.committed import committed_file
from neuclip.stages.telling import Pair, Told
from neuclip.storage.uris import join, parent_of


def tell(pair: Pair, uri: str) -> Told:
    """Tell of a pair; it notes the sample's id."""
    row = pair.one(
        "SELECT * FROM read_parquet($path) WHERE uid = $uid", committed_file(uri, MEMBERS)
    )
    if row is None:
        return {}, "its image has no readable header, so it was not packed (undecodable)"
    pair.known["sample_id"] = row["sample_id"]
    facts = {**row, "part": row["shard"].split("/")[1]}
    facts["uri"] = join(parent_of(uri), facts.pop("shard"))
    del facts["uid"]
    held_out = "it is held out for choosing a checkpoint, and is never trained on"
    return facts, held_out if row["sample_id"] is None else ""
