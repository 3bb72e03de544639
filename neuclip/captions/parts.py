"""One part: the texts that the kept pairs of one partition have of one source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.captions.config import PART_VERSION
from neuclip.captions.files import OK, TEXTS, TEXTS_SCHEMA
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import Manifest
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage

TextsOfPairs = Sequence[tuple[str, list[str]]]
"""uid and texts of pairs, in the order of the input."""


@dataclass(frozen=True)
class PartSettings:
    """What all parts of a run have in common."""

    root: str
    max_per_source: int
    force: bool


def commit_part(
    settings: PartSettings,
    *,
    source: str,
    partition: str,
    made_of: Mapping[str, object],
    pairs: TextsOfPairs,
    unusable: int = 0,
) -> Manifest:
    """Commit the texts of a source unless they are there; texts beyond the most of one pair are dropped and counted.

    Args:
        made_of: what the texts depend on; the key is of it.
        unusable: further texts, which the table has and which cannot be used.
    """
    most = settings.max_per_source
    key = digest({"version": PART_VERSION, "source": source, "most": most, **made_of})

    def write(workspace: Workspace) -> Outcome:
        found = [(uid, [text for text in texts if text.strip()]) for uid, texts in pairs]
        kept = [(uid, k, text) for uid, texts in found for k, text in enumerate(texts[:most])]
        columns = list(zip(*kept, strict=True)) or [(), (), ()]
        table = pa.table(
            [columns[0], [source] * len(kept), columns[1], columns[2], [OK] * len(kept)],
            schema=TEXTS_SCHEMA,
        )
        pq.write_table(table, workspace.output / TEXTS, compression="zstd")
        entered = sum(len(texts) for _, texts in found) + unusable
        dropped = {"unusable": unusable, "over_max_per_source": entered - unusable - len(kept)}
        pairs_with = sum(bool(texts) for _, texts in found)
        return Outcome(make_ledger(entered, len(kept), dropped), {"pairs": pairs_with})

    identity = StageIdentity(
        stage="caption",
        stage_version=PART_VERSION,
        key=key,
        section={"source": source},
        inputs={"partition": partition},
        root=settings.root,
        part=True,
    )
    return commit_stage(identity, write, force=settings.force)[0]


def read_part(part_uri: str) -> Iterator[tuple[str, list[str]]]:
    """Yield uid and texts of the pairs of a part that have any."""
    table = pq.read_table(committed_file(part_uri, TEXTS), columns=["uid", "text", "status"])
    before, texts = "", list[str]()
    for row in table.to_pylist():
        if row["status"] != OK:
            continue
        if row["uid"] != before and texts:
            yield before, texts
            texts = []
        before = row["uid"]
        texts.append(row["text"])
    if texts:
        yield before, texts
