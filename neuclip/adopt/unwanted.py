"""Adopted rows that are not wanted: uids that an earlier row has, and pairs that the recipe refuses.

They fail in another part, which stands in the stage in place of the shard's own.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from neuclip.acquired.adopted_tar import adopted_tar
from neuclip.acquired.partitions import ROWS, STAGE
from neuclip.acquired.reasons import DUPLICATE_UID
from neuclip.acquired.refusals import REFUSED, Refusals
from neuclip.acquired.rows import write_rows
from neuclip.adopt.parts import Adoption
from neuclip.adopt.shards import ReadyShard
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers, repeats
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.manifest import PARTS, Manifest, is_committed, read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join

_SHOWN = 3


def without_unwanted(
    adoption: Adoption,
    shards: Sequence[ReadyShard],
    parts: Sequence[Manifest],
    *,
    refused: Refusals,
    pool: Pool,
    force: bool,
) -> list[Manifest]:
    """Return the parts with every uid once and without what the recipe refuses.

    Raises: DataError: if a uid comes twice and on_duplicate_uid is `error`.
    """
    unwanted = _repeated(adoption, shards, parts)
    for number, rows in _refused(adoption.root, parts, refused).items():
        unwanted[number] = dict.fromkeys(rows, REFUSED) | unwanted.get(number, {})
    numbers = sorted(unwanted)
    planned = [_part(adoption, shards[n], parts[n], unwanted[n]) for n in numbers]
    done = dict(zip(numbers, do_parts(planned, pool=pool, force=force), strict=True))
    return [done.get(number, part) for number, part in enumerate(parts)]


def _repeated(
    adoption: Adoption, shards: Sequence[ReadyShard], parts: Sequence[Manifest]
) -> dict[int, dict[int, str]]:
    """Return number of a part -> row -> reason of the rows with a uid that an earlier row has."""
    starts = np.cumsum([0, *(part.ledger.entered for part in parts)])
    tables = (pq.read_table(_rows_path(adoption.root, part), columns=["uid"]) for part in parts)
    uids = as_integers("".join("".join(table["uid"].to_pylist()) for table in tables))
    again = repeats(uids)
    of_part = np.searchsorted(starts, again, side="right") - 1
    places = list(zip(of_part.tolist(), (again - starts[of_part]).tolist(), strict=True))
    if places and adoption.config.on_duplicate_uid == "error":
        examples = ", ".join(
            f"{uids[at, 0]:016x}{uids[at, 1]:016x} (row {row} of {shards[number].name})"
            for at, (number, row) in zip(again.tolist(), places[:_SHOWN], strict=False)
        )
        raise DataError(
            f"{len(again)} rows of the shards in {adoption.config.adopt} have a uid that an earlier row has: "
            f"{examples}; set acquire.on_duplicate_uid=keep_first, or adopt shards that hold every pair once"
        )
    repeated: dict[int, dict[int, str]] = {}
    for number, row in places:
        repeated.setdefault(number, {})[row] = DUPLICATE_UID
    return repeated


def _refused(root: str, parts: Sequence[Manifest], refusals: Refusals) -> dict[int, list[int]]:
    """Return number of a part -> rows that the recipe's lists name."""
    if not refusals:
        return {}
    refused: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        table = pq.read_table(_rows_path(root, part), columns=["uid", "url", "status"])
        for place, row in enumerate(table.to_pylist()):
            if row["status"] == "success" and refusals.names_pair(row["uid"], row["url"]):
                refused.setdefault(number, []).append(place)
    return refused


def _part(
    adoption: Adoption, shard: ReadyShard, part: Manifest, reasons: Mapping[int, str]
) -> Part:
    """Plan a part with the rows at some places failed for a reason; made again if the tar lies elsewhere now."""
    key = digest({"part": part.key, "unwanted": sorted(reasons.items())})
    identity = adoption.identity(key, shard)
    return Part(
        identity,
        partial(_drop, _uri(adoption.root, part), reasons),
        note=f"leaving rows of shard {shard.name} out",
        redo=is_committed(identity.uri)
        and adopted_tar(read_manifest(identity.uri)) != adopted_tar(part),
    )


def _drop(
    part_uri: str, reasons: Mapping[int, str], workspace: Workspace, progress: Progress
) -> Outcome:
    del progress
    rows = pq.read_table(committed_file(part_uri, ROWS)).to_pylist()
    for place, reason in reasons.items():
        kept = {name: rows[place][name] for name in ("uid", "url")}
        rows[place] = {
            **dict.fromkeys(rows[place]),
            **kept,
            "status": "failed",
            "reason": reason,
        }
    ledger, messages = write_rows(rows, workspace.output / ROWS)
    summary = read_manifest(part_uri).summary
    return Outcome(ledger=ledger, summary={**summary, "messages": messages})


def _uri(root: str, part: Manifest) -> str:
    return join(root, STAGE, PARTS, part.key)


def _rows_path(root: str, part: Manifest) -> Path:
    return committed_file(_uri(root, part), ROWS)
