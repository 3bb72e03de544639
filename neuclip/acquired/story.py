"""What is told of a pair that was acquired: which row it was, and what became of it."""

from neuclip.acquired.listing import PARTITIONS_FILE, read_listing
from neuclip.acquired.partitions import ROWS, partition_folders
from neuclip.acquired.reasons import REPEATS
from neuclip.acquired.refusals import TAKEDOWNS, TAKEN_DOWN
from neuclip.acquired.texts import TEXTS
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri
from neuclip.stages.telling import OF_FILES, Facts, Pair, Told
from neuclip.storage.uris import name_of

_PREFIX = 6
_NEAR = 3
_ALIKE = f"SELECT DISTINCT uid {OF_FILES} WHERE starts_with(uid, $start) ORDER BY uid LIMIT {_NEAR}"
_NO_FACTS = ("uid", "filename", "file_row_number")


def tell(pair: Pair, uri: str) -> Told:
    """Tell of a pair; it notes the partition that has its last try.

    Raises: ConfigError: if the text is no uid. DataError: if no row has it.
    """
    paths = {
        str(committed_file(folder, ROWS)): name_of(folder) for folder in partition_folders(uri)
    }
    found = pair.in_files(f"SELECT * {OF_FILES} WHERE uid = $uid", list(paths))
    if not found:
        raise _unknown(pair, list(paths))
    order = {path: number for number, path in enumerate(paths)}
    found.sort(key=lambda row: (order[row["filename"]], row["file_row_number"]))
    tries = [row for row in found if row["reason"] not in REPEATS] or found
    first, row = tries[0], tries[-1]
    pair.known["partition"] = paths[row["filename"]]
    facts: Facts = {
        "partition": pair.known["partition"],
        **_origin(pair, uri, paths[first["filename"]], first["file_row_number"]),
        **{name: value for name, value in row.items() if name not in _NO_FACTS},
    }
    facts |= _texts(pair, uri, pair.known["partition"])
    if len(tries) > 1:
        facts["tries"] = [
            {
                "round": number,
                "partition": paths[tried["filename"]],
                "outcome": tried["reason"] or tried["status"],
                "detail": tried["detail"],
            }
            for number, tried in enumerate(tries)
        ]
    if len(found) > len(tries):
        facts["rows_with_this_uid"] = len(found) - len(tries) + 1
    return facts, "" if row["status"] == "success" else _why_not_there(row)


def _texts(pair: Pair, uri: str, partition: str) -> Facts:
    """Tell the captions of a pair, and how many of its texts cannot be used."""
    place = name_of(partition)
    texts = next(row["texts"] for row in read_listing(uri) if row["part"] == place)
    row = pair.one(
        "SELECT captions, unusable FROM read_parquet($path) WHERE uid = $uid LIMIT 1",
        committed_file(part_uri(uri, texts), TEXTS),
    )
    captions, unusable = (dict(row["captions"]), dict(row["unusable"])) if row else ({}, {})
    return {"captions": captions, **({"unusable_texts": unusable} if unusable else {})}


def _origin(pair: Pair, uri: str, partition: str, number: int) -> Facts:
    """Say which row of which input file the pair was."""
    row = pair.one(
        "SELECT part, file, first_row FROM read_parquet($path) WHERE part = $part",
        committed_file(uri, PARTITIONS_FILE),
        part=partition,
    )
    return {} if row is None else {"file": row["file"], "row": row["first_row"] + number}


def _unknown(pair: Pair, paths: list[str]) -> DataError | ConfigError:
    """Return the error for a uid that no row has, with the nearest thing to do."""
    name = "`neuclip query RECIPE \"SELECT uid, url FROM rows WHERE url LIKE '%...%'\"` finds a pair by its URL"
    alike = pair.in_files(_ALIKE, paths, start=pair.uid[:_PREFIX])
    near = sorted({row["uid"] for row in alike})[:_NEAR]
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    if not is_uid(pair.uid):
        return ConfigError(
            f"{pair.uid!r} is no uid, which has {UID_LENGTH} hex digits.{meant} {name}"
        )
    return DataError(f"no row of {pair.source} has uid {pair.uid}.{meant} {name}")


def _why_not_there(row: Facts) -> str:
    """Say why a pair ends at acquire, and whether that may change."""
    reason = row["reason"]
    if reason == TAKEN_DOWN:
        return f"it was taken down; the records in `{TAKEDOWNS}` at the root say when"
    said = f"it was not fetched: {reason} ({row['detail'] or 'no further word'})"
    return f"{said}; `neuclip repair` tries again" if reason in TRANSIENT_REASONS else said
