"""Erase pairs from what acquire committed: rows, images, kept columns, and the accounts that change with them."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.retries import REPAIRS, ROUND, Attempts, total_ledger
from neuclip.acquired.adopted_tar import adopted_tar
from neuclip.acquired.listing import PARTITIONS_FILE
from neuclip.acquired.partitions import COLUMNS, IMAGES, ROWS
from neuclip.acquired.reasons import REPEATS
from neuclip.acquired.refusals import TAKEN_DOWN, Refusals
from neuclip.acquired.rows import ROWS_SCHEMA
from neuclip.acquired.texts import TEXTS, is_text_part
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import (
    PARTS,
    Manifest,
    committed_manifests,
    is_committed,
    read_manifest,
)
from neuclip.stages.open_folder import OpenFolder, blank_rows, uids_in
from neuclip.storage.blank import blank_members, stem_of
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

Record = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Rows of one partition that are on the list."""

    part: str
    uids: list[str]
    """Those that were not taken down yet."""
    gone: list[str]
    """Those that were."""
    num_images: int
    """How many of `uids` have an image here."""
    urls: list[str]
    """What the rows of `uids` named as their address."""


def find_rows(acquire_uri: str, refusals: Refusals) -> Iterator[Found]:
    """Look through the rows of every committed partition at a root.

    A row that repeats a uid was never fetched; what it says goes with the row that it repeats.
    """
    for part in list_folders(join(acquire_uri, PARTS)):
        uri = join(acquire_uri, PARTS, part)
        if not is_committed(uri) or is_text_part(read_manifest(uri)):
            continue
        columns = ["uid", "url", "status", "reason"]
        found: list[Record] = []
        with pq.ParquetFile(local_copy(join(uri, ROWS))) as file:
            for batch in file.iter_batches(columns=columns):
                rows: list[Record] = batch.to_pylist()
                found += [row for row in rows if refusals.names_pair(row["uid"], row["url"])]
        live = [row for row in found if row["reason"] not in (TAKEN_DOWN, *REPEATS)]
        if found:
            yield Found(
                part=part,
                uids=list(dict.fromkeys(row["uid"] for row in live)),
                gone=[row["uid"] for row in found if row["reason"] == TAKEN_DOWN],
                num_images=sum(row["status"] == "success" for row in live),
                urls=[row["url"] for row in live if row["url"]],
            )


def stages_with(acquire_uri: str, parts: Collection[str]) -> list[Manifest]:
    """Return the committed acquire stages that list one of the partitions."""
    wanted = set(parts)
    return [
        manifest for manifest in committed_manifests(acquire_uri) if wanted & set(manifest.parts)
    ]


def erase_part(uri: str, uids: Collection[str], *, takedown: int, scratch: Path) -> str | None:
    """Erase rows of a partition and their images; return the tar that is not ours, if the images lie in one.

    The images go first: only the rows know which they are.
    """
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    rows: list[Record] = pq.read_table(local_copy(join(uri, ROWS))).to_pylist()
    stems = {stem_of(row["member"]) for row in rows if row["uid"] in uids and row["member"]}
    adopted = adopted_tar(folder.manifest)
    if adopted is None:  # also without a stem: an earlier try may have come this far
        folder.change(IMAGES, lambda path: blank_members(path, stems))
    erased = [_erased(row) if row["uid"] in uids else row for row in rows]
    table = pa.Table.from_pylist(erased, schema=ROWS_SCHEMA)
    folder.replace(ROWS, lambda path: pq.write_table(table, path, compression="zstd"))
    dropped = Counter(str(row["reason"]) for row in erased if row["status"] != "success")
    out = sum(row["status"] == "success" for row in erased)
    folder.close(takedown, ledger=make_ledger(len(erased), out, dict(dropped)))
    return adopted.uri if adopted is not None and stems else None


def update_stage(
    acquire_uri: str, stage: Manifest, uids: Sequence[str], *, takedown: int, scratch: Path
) -> None:
    """Erase the kept columns of pairs from a committed stage, and count it again from its partitions."""
    folder = OpenFolder(join(acquire_uri, stage.key), stage, scratch)
    parts = {key: read_manifest(join(acquire_uri, PARTS, key)) for key in stage.parts}
    for key in parts:
        name = f"{COLUMNS}/{key}.parquet"
        if folder.holds(name):
            blank_rows(folder, name, uids)
    if folder.holds(PARTITIONS_FILE):
        listed = pq.read_table(local_copy(join(folder.uri, PARTITIONS_FILE)))
        out = [parts[key].ledger.out for key in listed["part"].to_pylist()]
        place = listed.schema.get_field_index("out")
        counted = listed.set_column(place, "out", pa.array(out, pa.int64()))
        folder.replace(PARTITIONS_FILE, lambda path: pq.write_table(counted, path))
    ledger = total_ledger(acquire_uri, _all_attempts(stage, parts))
    summary: dict[str, Any] = {"reasons": ledger.dropped}
    if "repaired" in stage.summary:
        summary["repaired"] = sum(
            part.ledger.out for part in parts.values() if REPAIRS in part.inputs
        )
    folder.close(takedown, ledger=ledger, summary=summary)


def find_texts(acquire_uri: str, uids: Collection[str]) -> list[str]:
    """Return the committed text parts with a row of one of the pairs."""
    return [
        part
        for part in list_folders(join(acquire_uri, PARTS))
        if is_committed(uri := join(acquire_uri, PARTS, part))
        and is_text_part(read_manifest(uri))
        and uids_in(join(uri, TEXTS), uids)
    ]


def erase_texts(uri: str, uids: Collection[str], takedown: int, scratch: Path) -> None:
    """Erase the texts of pairs from a text part; their rows stay, for others stand beside them."""
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    blank_rows(folder, TEXTS, uids)
    folder.close(takedown)


def _erased(row: Record) -> Record:
    """Return a row of which only the uid is left; one that repeats a uid stays a repeat."""
    reason = row["reason"] if row["reason"] in REPEATS else TAKEN_DOWN
    nothing: Record = dict.fromkeys(ROWS_SCHEMA.names)
    return {**nothing, "uid": row["uid"], "status": "failed", "reason": reason}


def _all_attempts(stage: Manifest, parts: dict[str, Manifest]) -> list[Attempts]:
    """Put the partitions of a stage together with their retries."""
    all_attempts = {
        key: Attempts(part, []) for key, part in parts.items() if REPAIRS not in part.inputs
    }
    retries = [part for part in parts.values() if REPAIRS in part.inputs]
    for part in sorted(retries, key=lambda part: int(part.inputs[ROUND])):
        all_attempts[part.inputs[REPAIRS]].retries.append(part)
    return [all_attempts[key] for key in stage.parts if key in all_attempts]
