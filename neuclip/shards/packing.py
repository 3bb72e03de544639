"""Groups of pairs become parts, several at once, with ids as if one had been packed after the other.

The id of a part's first sample is how many samples the parts before it have, and that is known for certain only once
these are packed: an image that cannot be read drops out. Parts are planned as if every image could be; those after a
part in which one could not are packed again. Their keys hold the first id, so that none is taken for another.
"""

import shutil
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from neuclip.acquired.raw_images import RawImages
from neuclip.foundation.progress import Progress
from neuclip.shards.config import STAGE_VERSION, ShardConfig
from neuclip.shards.members import SELECTION, TRAIN
from neuclip.shards.pairs import Pairs
from neuclip.shards.part import PlannedPart, UndecodableLimit, pack_part, plan_name
from neuclip.stages.committed import require_same
from neuclip.stages.keys import digest
from neuclip.stages.ledger import add_ledgers
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import MANIFEST, Manifest, is_committed, read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.plans import plans_uri
from neuclip.stages.pool import Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.storage.files import put_file, remove, remove_tree
from neuclip.storage.uris import join, name_of

STAGE = "shard"
_IN_HAND = 4
"""Parts that are planned together for each worker."""


@dataclass(frozen=True)
class _Group:
    """A group of pairs, and the key of its part if an earlier run has given it one."""

    number: int
    key: str | None = None


@dataclass(frozen=True)
class _Planned:
    """A part, with the samples that it is expected to have."""

    group: _Group
    part: Part
    first_sample_id: int
    expected: int
    is_certain: bool
    was_there: bool


class Packing:
    """The parts of one run.

    Args:
        folders: of acquire's partitions.
        workspace: of the stage.
    """

    def __init__(
        self,
        config: ShardConfig,
        section: dict[str, Any],
        *,
        root: str,
        pairs: Pairs,
        folders: Iterable[str],
        workspace: Workspace,
        pool: Pool,
        progress: Progress,
        force: bool,
    ) -> None:
        self.done: list[Manifest] = []
        self._config, self._section, self._root = config, section, root
        self._pairs, self._pool, self._progress, self._force = pairs, pool, progress, force
        self._images = Loaded(partial(RawImages, list(folders)))
        self._scratch = workspace.scratch / "plans"
        self._plans = plans_uri(root, STAGE, name_of(workspace.uri))
        self._at_once = 1 if pool.is_here else pool.workers * _IN_HAND
        self._samples: dict[int, int] = {}
        """Group -> samples that it has, known since it was packed with ids that were not its own."""

    def do(self, keys: Iterable[str], groups: Iterable[int]) -> None:
        """Do all parts.

        Args:
            keys: parts of an earlier run, which are the first groups; what is gone of them is packed again.
            groups: new ones after them, packed unless a run that was ended has.
        """
        kept = [_Group(number, key) for number, key in enumerate(keys)]
        waiting = deque([*kept, *map(_Group, groups)])
        try:
            while waiting:
                planned = self._plan_some(waiting)
                manifests = do_parts(
                    [one.part for one in planned],
                    pool=self._pool,
                    progress=self._progress,
                    force=self._force,
                    done=sum(part.ledger.entered for part in self.done),
                    total=self._pairs.count,
                )
                waiting.extendleft(reversed(self._accept(planned, manifests)))
                self._remove_plans()
        finally:
            self._remove_plans()

    def _plan_some(self, waiting: deque[_Group]) -> list[_Planned]:
        """Plan the next parts, as many as are done at once; an old key is only given a part whose first id is sure."""
        planned: list[_Planned] = []
        next_id, is_certain = self._next_id, True
        while waiting and len(planned) < self._at_once:
            if waiting[0].key is not None and not is_certain:
                break
            one = self._plan(waiting.popleft(), next_id)
            planned.append(one)
            next_id += one.expected
            is_certain = is_certain and one.is_certain
        return planned

    def _accept(self, planned: list[_Planned], manifests: list[Manifest]) -> list[_Group]:
        """Take the parts up to the first that has other samples than expected; return the groups after it."""
        for place, (one, manifest) in enumerate(zip(planned, manifests, strict=True)):
            require_same(
                manifest.summary["first_sample_id"],
                one.first_sample_id,
                f"first sample id of part {manifest.key}",
                redo_with="run `--from acquire --force`",
            )
            self.done.append(manifest)
            self._limit().check(0)
            if manifest.ledger.out != one.expected:
                rest = list(zip(planned, manifests, strict=True))[place + 1 :]
                return [self._give_up(*pair) for pair in rest]
        return []

    def _give_up(self, one: _Planned, manifest: Manifest) -> _Group:
        """Remove a part whose ids are not its own; what it has told of its images is kept."""
        self._samples[one.group.number] = manifest.ledger.out
        if not one.was_there:
            remove(join(one.part.identity.uri, MANIFEST))
            remove_tree(one.part.identity.uri)
        return _Group(one.group.number)

    def _plan(self, group: _Group, first_sample_id: int) -> _Planned:
        key = group.key
        if key is None:
            self._pairs.enter(group.number)
            content = {"first_sample_id": first_sample_id, "pairs": self._pairs.digest()}
            key = digest({"version": STAGE_VERSION, "section": self._section, **content})
        identity = StageIdentity(
            STAGE, STAGE_VERSION, key, self._section, {}, self._root, part=True
        )
        there = read_manifest(identity.uri) if is_committed(identity.uri) else None
        if there is not None and not self._force:
            part = Part(identity, _is_there, note="taking over", size=there.ledger.entered)
            return _Planned(
                group, part, first_sample_id, there.ledger.out, is_certain=True, was_there=True
            )
        entered = self._pairs.enter(group.number)
        plan_uri, num_train = self._write_plan(key)
        planned = PlannedPart(
            key,
            plan_uri,
            self._images,
            first_sample_id,
            self._config.samples_per_shard,
            entered,
            self._limit(),
        )
        part = Part(identity, partial(pack_part, planned), note="packing", size=entered)
        known = there.ledger.out if there is not None else self._samples.get(group.number)
        expected = num_train if known is None else known
        return _Planned(
            group,
            part,
            first_sample_id,
            expected,
            is_certain=known is not None,
            was_there=there is not None,
        )

    def _write_plan(self, key: str) -> tuple[str, int]:
        """Write the chosen pairs where all workers see them; return the place, and how many are to be trained on."""
        self._pairs.place(seed=self._section["seed"], selection_share=self._config.selection_share)
        folder = self._scratch / key
        folder.mkdir(parents=True, exist_ok=True)
        counts = {
            split: self._pairs.write_packed(folder / plan_name(split), held_out=split == SELECTION)
            for split in (TRAIN, SELECTION)
        }
        if self._pool.shares_files:
            return str(folder), counts[TRAIN]
        uri = join(self._plans, key)
        for path in sorted(folder.iterdir()):
            put_file(path, join(uri, path.name))
        return uri, counts[TRAIN]

    def _remove_plans(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        if not self._pool.shares_files:
            remove_tree(self._plans)

    @property
    def _next_id(self) -> int:
        return sum(part.ledger.out for part in self.done)

    def _limit(self) -> UndecodableLimit:
        undecodable = add_ledgers(part.ledger for part in self.done).dropped.get("undecodable", 0)
        return UndecodableLimit(
            self._config.max_undecodable_share, self._pairs.count, before=undecodable
        )


def _is_there(workspace: Workspace, progress: Progress) -> Outcome:
    """Stand for the work of a part that is committed."""
    del workspace, progress
    raise AssertionError
