"""What curate tells of a pair: the rules that it fails, and the pairs that are like it."""

from neuclip.curate.files import CONTAMINATION, GROUPS, VERDICTS
from neuclip.stages.committed import committed_file, holds_file
from neuclip.stages.manifest import read_manifest
from neuclip.stages.telling import Facts, Pair, Told

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
        "kept": verdict["kept"],
        "reason": verdict["reason"],
        "failed": [rule for bit, rule in enumerate(rules) if failed >> bit & 1],
        "groups": _groups(pair, uri, rules),
        "evaluation_samples": _evaluation_samples(pair, uri),
    }
    return facts, "" if verdict["kept"] else f"curate dropped it: {verdict['reason']}"


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
