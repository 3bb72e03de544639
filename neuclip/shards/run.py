"""Pack the kept pairs into deterministic training shards, part by part; new pairs are shuffled together."""

from dataclasses import dataclass
from typing import Any

from neuclip.acquire.raw import partition_folders, rows_paths, texts_paths
from neuclip.curate.files import VERDICTS
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.shards.config import STAGE_VERSION, ShardConfig
from neuclip.shards.files import MEMBERS
from neuclip.shards.history import GROUPS, take_over
from neuclip.shards.members import SELECTION, TRAIN, MemberTable
from neuclip.shards.pack import Packer
from neuclip.shards.pairs import Pairs
from neuclip.shards.raw_images import RawImages
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import Ledger, add_ledgers, make_ledger
from neuclip.stages.manifest import Manifest, part_uri, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import connect
from neuclip.storage.uris import parent_of

STAGE = "shard"


def run_shard(
    config: ShardConfig,
    *,
    seed: int,
    root: str,
    acquire_uri: str,
    curate_uri: str,
    workspace: Workspace,
    progress: Progress,
    force: bool = False,
) -> Outcome:
    """Write parts of `shard-NNNNNN.tar` (training) and `selection-NNNNNN.tar` (held out), and tables over all parts.

    A sample is three members, `{uid}.jpg|png|webp`, `{uid}.json` and `{uid}.txt`; image bytes are those that
    acquire stored. `sample_id` is the place in the sequence of training shards; held-out samples have none.
    In the ledger, `out` counts training samples; held-out ones stand under `held_out_for_selection`.

    The outcome depends on what the root has packed before: pairs that an earlier run of the same settings packed
    together stay as they are (see `history.take_over`), and all others become parts of `config.pairs_per_part` after
    them, each committed as soon as it is packed. At a root without such a run it is a function of recipe and inputs.
    The stage's own folder holds `members.parquet` over all parts and `pairs.parquet`, which pairs are together.

    Args:
        force: write the tars of parts that are committed again too; which pairs are together stays.
    Raises: DataError: if too many images cannot be read or no training sample is left.
        IntegrityError: if the tables above do not fit each other, or a part has lost a file.
    """
    section = {**config.keyed(), "seed": seed}
    images = RawImages(partition_folders(acquire_uri))
    with connect(workspace.scratch) as connection:
        verdicts = committed_file(curate_uri, VERDICTS)
        pairs = Pairs(connection, verdicts, rows_paths(acquire_uri), texts_paths(acquire_uri))
        history = take_over(pairs, parent_of(workspace.uri), section, force=force)
        parts = _Parts(config, section, root, pairs, images, progress, force=force)
        for group, key in enumerate(history.parts):
            parts.take(group, key)
        for group in pairs.group_others(
            first=len(history.parts), size=config.pairs_per_part, seed=seed
        ):
            parts.make(group)
        pairs.write_groups(workspace.output / GROUPS)
    ledger = add_ledgers(part.ledger for part in parts.done)
    if ledger.out == 0:
        raise DataError(
            f"no training sample is left ({ledger.describe()}); loosen `curate` or give a longer table"
        )
    keys = [part.key for part in parts.done]
    with MemberTable(workspace.output / MEMBERS) as members:
        for key in keys:
            members.copy(committed_file(part_uri(workspace.uri, key), MEMBERS))
    progress(STAGE, done=pairs.count, total=pairs.count, note=ledger.describe())
    summary = {
        "reused_parts": len(history.parts),
        "new_parts": len(keys) - len(history.parts),
        "parts_given_up": history.earlier - len(history.parts),
        "shards": sum(len(part.summary["shards"]) for part in parts.done),
        "selection_samples": ledger.dropped.get("held_out_for_selection", 0),
    }
    return Outcome(ledger=ledger, summary=summary, parts=keys)


@dataclass
class _Parts:
    """The parts of one run, each taken over or packed and committed."""

    config: ShardConfig
    section: dict[str, Any]
    root: str
    pairs: Pairs
    images: RawImages
    progress: Progress
    force: bool

    def __post_init__(self) -> None:
        self.done: list[Manifest] = []

    def take(self, group: int, key: str) -> None:
        """Take over a part of an earlier run; one whose tars are gone, or are to be made again, is packed again."""
        self._commit(key, group)
        verify_sizes(self._identity(key).uri, self.done[-1])

    def make(self, group: int) -> None:
        """Pack a new group, unless a run that was ended has."""
        self.pairs.enter(group)
        content = {"first_sample_id": self._next_id, "pairs": self.pairs.digest()}
        key = digest({"version": STAGE_VERSION, "section": self.section, **content})
        self._commit(key, group)

    @property
    def _next_id(self) -> int:
        return sum(part.ledger.out for part in self.done)

    def _commit(self, key: str, group: int) -> None:
        identity = self._identity(key)
        manifest, _ = commit_stage(
            identity, lambda workspace: self._pack(workspace, key, group), force=self.force
        )
        self.done.append(manifest)

    def _identity(self, key: str) -> StageIdentity:
        return StageIdentity(
            stage=STAGE,
            stage_version=STAGE_VERSION,
            key=key,
            section=self.section,
            inputs={},
            root=self.root,
            part=True,
        )

    def _pack(self, workspace: Workspace, key: str, group: int) -> Outcome:
        entered = self.pairs.enter(group)
        self.pairs.place(seed=self.section["seed"], selection_share=self.config.selection_share)
        packer = Packer(
            self.images,
            workspace.output,
            place=f"parts/{key}",
            first_sample_id=self._next_id,
            samples_per_shard=self.config.samples_per_shard,
            progress=self.progress,
            done=sum(ledger.entered for ledger in self._ledgers()),
            total=self.pairs.count,
        )
        with MemberTable(workspace.output / MEMBERS) as members:
            packer.write(TRAIN, self.pairs.packed(held_out=False), members)
            packer.write(SELECTION, self.pairs.packed(held_out=True), members)
        held_out = packer.packed[SELECTION]
        dropped = {"held_out_for_selection": held_out, "undecodable": packer.undecodable}
        ledger = make_ledger(entered, packer.packed[TRAIN], dropped)
        self._check_undecodable(ledger)
        return Outcome(ledger, {"first_sample_id": self._next_id, "shards": packer.shards})

    def _check_undecodable(self, ledger: Ledger) -> None:
        share, together = self.config.max_undecodable_share, add_ledgers([*self._ledgers(), ledger])
        undecodable = together.dropped.get("undecodable", 0)
        if undecodable > share * self.pairs.count:
            raise DataError(
                f"{undecodable} of {self.pairs.count} stored images cannot be read, more than "
                f"shard.max_undecodable_share {share:.1%} allows; run `--only acquire --force`"
            )

    def _ledgers(self) -> list[Ledger]:
        return [part.ledger for part in self.done]
