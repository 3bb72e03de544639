"""What the caption stage tells of a pair."""

from neuclip.captions.files import TEXTS, read_parts
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri
from neuclip.stages.telling import Pair, Told


def tell(pair: Pair, uri: str) -> Told:
    """Tell the texts of a pair by source; acquire has noted its partition."""
    captions: dict[str, list[str]] = {}
    for row in read_parts(uri):
        if row["partition"] != pair.known["partition"]:
            continue
        found = pair.rows(
            "SELECT text FROM read_parquet($path) WHERE uid = $uid AND text IS NOT NULL ORDER BY k",
            path=str(committed_file(part_uri(uri, row["part"]), TEXTS)),
        )
        if found:
            captions[row["source"]] = [text["text"] for text in found]
    return {"captions": captions}, ""
