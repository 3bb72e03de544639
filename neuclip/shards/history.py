"""What the root has packed before: the groups of pairs that keep their shards and sample ids."""

import logging
from dataclasses import dataclass
from typing import Any

from neuclip.foundation.errors import IntegrityError
from neuclip.shards.config import STAGE_VERSION
from neuclip.shards.pairs import Pairs
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import committed_manifests
from neuclip.storage.uris import join

log = logging.getLogger(__name__)

GROUPS = "pairs.parquet"


@dataclass(frozen=True)
class History:
    """The parts of an earlier run that are taken over, in order, and how many it had."""

    parts: list[str]
    earlier: int


def take_over(
    pairs: Pairs, stage_uri: str, section: dict[str, Any], *, force: bool = False
) -> History:
    """Find the earlier run, of the same settings, of which most pairs can stay where they are.

    Its parts are taken over in order as long as every pair of a part is still kept with the same alt text and image.
    Of runs that keep as many, the newest counts. Appended pairs so leave all ids as they were, also at a root where
    other rules were tried in between.

    Args:
        force: pass over a run whose record of pairs is damaged.
    Raises: IntegrityError: for a damaged record.
    """
    best: tuple[int, list[str], str, int] = (0, [], "", 0)
    for manifest in committed_manifests(stage_uri):
        if (manifest.stage_version, manifest.section) != (STAGE_VERSION, section):
            continue
        uri = join(stage_uri, manifest.key)
        try:
            sizes = pairs.whole_groups(committed_file(uri, GROUPS))
        except IntegrityError as error:
            if not force:
                raise
            log.warning("%s: what it says of pairs packed together is passed over", error)
            continue
        if sum(sizes) > best[0]:
            best = (sum(sizes), manifest.parts[: len(sizes)], uri, len(manifest.parts))
    _, parts, uri, earlier = best
    if parts:
        pairs.keep_groups(committed_file(uri, GROUPS), len(parts))
    if len(parts) < earlier:
        log.info(
            "part %d of %d that were packed before has lost or changed pairs; it and those after it are packed anew",
            len(parts) + 1,
            earlier,
        )
    return History(parts, earlier)
