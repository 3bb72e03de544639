"""What curate tells of a pair: its scores, the rules that it fails, and the pairs that are like it."""

from neuclip.curate.files import CONTAMINATION, GROUPS, VERDICTS
from neuclip.curate.pool import SCORES
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.telling import Facts, Pair, Told
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

_MOST_OF_A_GROUP = 20


def tell(pair: Pair, uri: str) -> Told:
    """Tell of a pair that acquire has noted the partition of."""
    rules: list[str] = list(read_manifest(uri).summary["rules"])
    verdict = pair.one(
        "SELECT * FROM read_parquet($path) WHERE uid = $uid", committed_file(uri, VERDICTS)
    )
    if verdict is None:
        return {}, "curate has no verdict on it: run `--only curate --force`"
    failed = int(verdict["failed"])
    facts: Facts = {
        "scores": _scores(pair),
        "kept": verdict["kept"],
        "reason": verdict["reason"],
        "failed": [rule for bit, rule in enumerate(rules) if failed >> bit & 1],
        "groups": _groups(pair, uri, rules),
        "evaluation_samples": _evaluation_samples(pair, uri),
    }
    return facts, "" if verdict["kept"] else f"curate dropped it: {verdict['reason']}"


def _scores(pair: Pair) -> dict[str, list[Facts]]:
    """Return what each score at this root says of the pair, by name; a row for each model it was made by."""
    found: dict[str, list[Facts]] = {}
    stage_uri = join(pair.root, "score", PARTS)
    for key in list_folders(stage_uri):
        uri = join(stage_uri, key)
        manifest = read_manifest(uri) if is_committed(uri) else None
        if manifest is None or manifest.inputs.get("partition") != pair.known["partition"]:
            continue
        row = pair.one(
            "SELECT * FROM read_parquet($path) WHERE uid = $uid", committed_file(uri, SCORES)
        )
        values = {name: value for name, value in (row or {}).items() if name != "uid"}
        made_by = {"model": manifest.inputs.get("model"), **values}
        found.setdefault(str(manifest.section.get("name")), []).append(made_by)
    return found


def _groups(pair: Pair, uri: str, rules: list[str]) -> list[Facts]:
    """Return, for each rule over groups, what the pair was dropped for, or who was dropped for it."""
    groups: list[Facts] = []
    for rule in rules:
        name = f"{GROUPS}/{rule}.parquet"
        if not holds_file(uri, name):
            continue
        rows = pair.rows(
            "SELECT uid, keeper_uid, distance FROM read_parquet($path) "
            "WHERE uid = $uid OR keeper_uid = $uid ORDER BY uid LIMIT $most",
            most=_MOST_OF_A_GROUP,
            path=str(committed_file(uri, name)),
        )
        groups += [{"rule": rule, **row} for row in rows]
    return groups


def _evaluation_samples(pair: Pair, uri: str) -> list[Facts]:
    """Return the samples of evaluation sets that the pair matches."""
    if not holds_file(uri, CONTAMINATION):
        return []
    return pair.rows(
        'SELECT "set", sample, "by", distance FROM read_parquet($path) WHERE uid = $uid',
        path=str(committed_file(uri, CONTAMINATION)),
    )
