"""Pack the kept pairs into deterministic training shards, part by part; new pairs are shuffled together."""

from collections.abc import Sequence
from typing import Any

from neuclip.acquired.partitions import ROWS, partition_folders, texts_paths
from neuclip.curate.files import VERDICTS
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.shards.config import ShardConfig
from neuclip.shards.files import MEMBERS
from neuclip.shards.history import GROUPS, History, take_over
from neuclip.shards.members import MemberTable
from neuclip.shards.packing import STAGE, Packing
from neuclip.shards.pairs import Pairs
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.manifest import Manifest, part_uri
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.tables import connect
from neuclip.storage.uris import parent_of


def run_shard(
    config: ShardConfig,
    *,
    seed: int,
    root: str,
    acquire_uri: str,
    curate_uri: str,
    workspace: Workspace,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Write parts of `shard-NNNNNN.tar` (training) and `selection-NNNNNN.tar` (held out), and tables over all parts.

    The members of a sample are `{uid}.jpg|png|webp`, `{uid}.json` and, if it has an alt text, `{uid}.txt`; image bytes
    are those that acquire stored. `sample_id` is the place in the sequence of training shards; held-out ones have none.
    In the ledger, `out` counts training samples; held-out ones stand under `held_out_for_selection`.

    The outcome depends on what the root has packed before: pairs that an earlier run of the same settings packed
    together stay as they are (see `history.take_over`), and all others become parts of `config.pairs_per_part` after
    them, each committed as soon as it is packed. At a root without such a run it is a function of recipe and inputs.
    The stage's own folder holds `members.parquet` over all parts and `pairs.parquet`, which pairs are together.

    Args:
        pool: packs parts; the outcome is the same with each.
        force: write the tars of parts that are committed again too; which pairs are together stays.
    Raises: DataError: if too many images cannot be read or no training sample is left.
        IntegrityError: if the tables above do not fit each other, or a part has lost a file.
    """
    section = {**config.keyed(), "seed": seed}
    folders = partition_folders(acquire_uri)
    with connect(workspace.scratch) as connection:
        verdicts = committed_file(curate_uri, VERDICTS)
        rows = [committed_file(folder, ROWS) for folder in folders]
        pairs = Pairs(connection, verdicts, rows, texts_paths(acquire_uri))
        history = take_over(pairs, parent_of(workspace.uri), section, force=force)
        parts = Packing(
            config,
            section,
            root=root,
            pairs=pairs,
            folders=folders,
            workspace=workspace,
            pool=pool,
            progress=progress,
            force=force,
        )
        new = pairs.group_others(first=len(history.parts), size=config.pairs_per_part, seed=seed)
        parts.do(history.parts, new)
        pairs.write_groups(workspace.output / GROUPS)
    ledger = add_ledgers(part.ledger for part in parts.done)
    if ledger.out == 0:
        raise DataError(
            f"no training sample is left ({ledger.describe()}); loosen `curate` or give a longer table"
        )
    keys = [part.key for part in parts.done]
    _write_members(keys, workspace)
    progress(STAGE, done=pairs.count, total=pairs.count, note=ledger.describe())
    return Outcome(ledger=ledger, summary=_summary(parts.done, history, ledger), parts=keys)


def _write_members(keys: Sequence[str], workspace: Workspace) -> None:
    """Put the member tables of all parts together."""
    with MemberTable(workspace.output / MEMBERS) as members:
        for key in keys:
            members.copy(committed_file(part_uri(workspace.uri, key), MEMBERS))


def _summary(parts: Sequence[Manifest], history: History, ledger: Ledger) -> dict[str, Any]:
    return {
        "reused_parts": len(history.parts),
        "new_parts": len(parts) - len(history.parts),
        "parts_given_up": history.earlier - len(history.parts),
        "shards": sum(len(part.summary["shards"]) for part in parts),
        "selection_samples": ledger.dropped.get("held_out_for_selection", 0),
    }
