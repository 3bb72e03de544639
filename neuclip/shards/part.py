"""A part of the shards: what whoever packs it is handed, and how it is packed.

The pairs of a part travel as two Parquet files, in the order in which they are packed, so that a worker needs to reach
nothing but the root.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquired.raw_images import RawImages
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.shards.files import MEMBERS
from neuclip.shards.members import SELECTION, TRAIN, MemberTable
from neuclip.shards.pack import Packer
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.files import get_file
from neuclip.storage.uris import is_local, join, local_part

_ROWS_AT_ONCE = 1024
SPLITS = (TRAIN, SELECTION)


@dataclass(frozen=True)
class UndecodableLimit:
    """How many images may turn out unreadable.

    Args:
        share: of all pairs.
        total: all pairs.
        before: unreadable images of the parts before.
    """

    share: float
    total: int
    before: int

    def check(self, undecodable: int) -> None:
        """Raise if too many images are unreadable.

        Raises: DataError: with both numbers.
        """
        count = self.before + undecodable
        if count > self.share * self.total:
            raise DataError(
                f"{count} of {self.total} stored images cannot be read, more than "
                f"shard.max_undecodable_share {self.share:.1%} allows; run `--only acquire --force`"
            )


@dataclass(frozen=True)
class PlannedPart:
    """What a worker is handed.

    Args:
        plan_uri: folder with the pairs of each split.
        entered: pairs of both splits.
    """

    key: str
    plan_uri: str
    images: Loaded[RawImages]
    first_sample_id: int
    samples_per_shard: int
    entered: int
    limit: UndecodableLimit


def plan_name(split: str) -> str:
    """Return the name of the file with the pairs of a split."""
    return f"{split}.parquet"


def pack_part(planned: PlannedPart, workspace: Workspace, progress: Progress) -> Outcome:
    """Write the tars of a part and its member table.

    Raises: DataError: if too many images cannot be read. IntegrityError: if one is not where acquire put it.
    """
    packer = Packer(
        planned.images.here(),
        workspace.output,
        place=f"parts/{planned.key}",
        first_sample_id=planned.first_sample_id,
        samples_per_shard=planned.samples_per_shard,
        progress=progress,
        done=0,
        total=planned.entered,
    )
    with MemberTable(workspace.output / MEMBERS) as members:
        for split in SPLITS:
            plan = _local(join(planned.plan_uri, plan_name(split)), workspace.scratch)
            packer.write(split, _pairs(plan), members)
    dropped = {
        "held_out_for_selection": packer.packed[SELECTION],
        "undecodable": packer.undecodable,
    }
    ledger = make_ledger(planned.entered, packer.packed[TRAIN], dropped)
    planned.limit.check(packer.undecodable)
    return Outcome(ledger, {"first_sample_id": planned.first_sample_id, "shards": packer.shards})


def _local(uri: str, scratch: Path) -> Path:
    if is_local(uri):
        return local_part(uri)
    path = scratch / Path(uri).name
    get_file(uri, path)
    return path


def _pairs(plan: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(plan) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()
