"""What was computed of a pair: the values of each score of the recipe, and the model they were made by."""

from neuclip.curate.files import SCORES
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri, read_manifest
from neuclip.stages.telling import Facts, Pair, Told


def tell(pair: Pair, uri: str) -> Told:
    """Tell of a pair that acquire has noted the partition of."""
    facts: Facts = {}
    for key in read_manifest(uri).parts:
        folder = part_uri(uri, key)
        manifest = read_manifest(folder)
        if manifest.inputs.get("partition") != pair.known["partition"]:
            continue
        row = pair.one(
            "SELECT * FROM read_parquet($path) WHERE uid = $uid", committed_file(folder, SCORES)
        )
        values = {name: value for name, value in (row or {}).items() if name != "uid"}
        facts[str(manifest.section["name"])] = {"model": manifest.inputs["model"], **values}
    return facts, ""
