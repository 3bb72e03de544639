"""Shards and their table without the stages: many samples in little time."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made.side_files import commit_side_files

from neuclip.index.reader import SampleTable
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage

PART = "parts/the-part"
"""Where the shards lie, below the root's `shard` folder."""


@dataclass(frozen=True)
class MadeShards:
    uri: str
    table: SampleTable
    index: str

    @property
    def folder(self) -> str:
        """What names of shards start at."""
        return self.uri.rsplit("/", 1)[0]


def make_shards(root: str | Path, sizes: list[int], image_of, *, caption_of=str) -> MadeShards:
    """Commit a shard stage with so many samples in each shard; `image_of(sample_id)` gives the bytes of a JPEG."""
    texts: dict[str, list[list[str]]] = defaultdict(list)
    places, names = [], [f"{PART}/shard-{number:06d}.tar" for number in range(len(sizes))]

    def work(workspace) -> Outcome:
        for name, size in zip(names, sizes, strict=True):
            with TarShard(workspace.output / Path(name).name) as tar:
                for _ in range(size):
                    texts[name].append([caption_of(len(places))])
                    places.append(_add(tar, len(places), image_of))
        return Outcome(ledger=ledger)

    ledger = make_ledger(sum(sizes), sum(sizes), {})
    part = StageIdentity("shard", 1, Path(PART).name, {}, {}, str(root), part=True)
    commit_stage(part, work)
    identity = StageIdentity("shard", 1, "shard-key", {}, {}, str(root))
    commit_stage(identity, lambda _: Outcome(ledger=ledger, parts=[part.key]))
    columns = np.array(places, dtype=np.int64).T
    shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    first = np.cumsum([0, *sizes[:-1]])
    table = SampleTable(names, first, shard, *columns)
    return MadeShards(identity.uri, table, commit_side_files(root, {"alt": texts}))


def _add(tar: TarShard, sample_id: int, image_of) -> tuple[int, int, int, int]:
    uid = f"{sample_id:032x}"
    content = image_of(sample_id)
    text = json.dumps({"uid": uid, "sample_id": sample_id}).encode()
    image_offset = tar.add(f"{uid}.jpg", content)
    return image_offset, len(content), tar.add(f"{uid}.json", text), len(text)
