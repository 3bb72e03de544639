"""Adopt ready-made shards: each becomes a part that names the shard's tar, which stays where it is."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquired.listing import PARTITIONS_FILE, Listed, write_listing
from neuclip.acquired.partitions import COLUMNS, STAGE
from neuclip.acquired.reasons import likely_cause
from neuclip.acquired.refusals import REFUSED, Refusals, check_takedowns, takedowns_at
from neuclip.acquired.rows import Messages, add_messages
from neuclip.acquired.texts import count_texts
from neuclip.adopt.account import read_pairs
from neuclip.adopt.parts import Adoption
from neuclip.adopt.problems import some
from neuclip.adopt.shards import ReadyShard, find_shards, ignored_files
from neuclip.adopt.unwanted import without_unwanted
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.manifest import Manifest
from neuclip.stages.part_work import do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import name_of
from neuclip.table.config import SourceConfig
from neuclip.table.kept import kept_columns
from neuclip.table.rows import Row

log = logging.getLogger(__name__)

_SHOWN = 3
_MOST_PROBLEMS = 20


def run_adopt(
    config: SourceConfig,
    *,
    refused: Refusals,
    max_failed_share: float,
    root: str,
    workspace: Workspace,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool,
) -> Outcome:
    """Verify every shard of a folder that no committed part has, and account for the rows of all.

    Args:
        refused: pairs that the recipe does not want.
        max_failed_share: of all rows, above which the stage is failed as a whole.
        pool: verifies shards; its workers must see the folder.
        force: verify the shards of committed parts again too.
    Raises: DataError: if no image can be read, uids come twice or too many rows failed.
    """
    assert config.adopt is not None
    source = config.adopt
    shards = find_shards(source)
    ignored = _ignored(source, root)
    adoption = Adoption(config, root, takedowns_at(root))
    planned, hold = zip(*map(adoption.rows_part, shards), strict=True)
    refusal = partial(_refusal, of=len(shards), source=source)
    parts = do_parts(planned, pool=pool, progress=progress, force=force, on_wrong_input=refusal)
    texts = do_parts(
        [adoption.texts_part(shard) for shard in shards],
        pool=pool,
        progress=progress,
        on_wrong_input=refusal,
    )
    parts = without_unwanted(adoption, shards, parts, refused=refused, pool=pool, force=force)
    check_takedowns(root, adoption.taken_down)
    ledger = add_ledgers(part.ledger for part in parts)
    messages = add_messages([part.summary["messages"] for part in parts])
    _check_any_image(ledger, messages, source)
    _check_failed_share(ledger, source, max_failed_share)
    _write_columns(adoption, shards, parts, workspace)
    _write_listing(shards, parts, texts, workspace)
    progress(STAGE, done=len(shards), total=len(shards), note=ledger.describe())
    summary = {
        "adopted": source,
        "partitions": len(shards),
        "reused": 0 if force else sum(hold),
        "reasons": ledger.dropped,
        "messages": messages,
        "texts": count_texts(texts),
        "ignored_files": ignored,
        **_problems(shards, parts),
    }
    return Outcome(ledger=ledger, summary=summary, parts=[part.key for part in parts])


def _ignored(source: str, root: str) -> dict[str, Any]:
    """Name the files of the folder that are not adopted; return how many by the reason why."""
    ignored = ignored_files(source, root=root)
    for why, names in ignored.items():
        log.warning("%d files in %s are ignored, %s: %s", len(names), source, why, some(names))
    return {why: {"count": len(names), "names": some(names)} for why, names in ignored.items()}


def _refusal(errors: Sequence[DataError], *, of: int, source: str) -> DataError:
    """Return the error of shards that cannot be adopted."""
    return DataError(
        f"{len(errors)} of {of} shards in {source} cannot be adopted: "
        f"{'; '.join(map(str, errors[:_SHOWN]))}. Write these shards anew, or move their files out of the folder "
        "(gaps in the numbers do no harm), then run again: the others are kept"
    )


def _write_columns(
    adoption: Adoption,
    shards: Sequence[ReadyShard],
    parts: Sequence[Manifest],
    workspace: Workspace,
) -> None:
    """Write the kept columns of every part beside its rows, nothing in those of pairs that were taken down."""
    config = adoption.config
    if not config.keep_columns:
        return
    folder = workspace.output / COLUMNS
    folder.mkdir()
    for shard, part in zip(shards, parts, strict=True):
        pairs = read_pairs(shard, config, scratch=workspace.scratch)
        kept = [_kept(row.pair, adoption.taken_down) for row in pairs]
        table = kept_columns(kept, config.keep_columns)
        pq.write_table(table, folder / f"{part.key}.parquet")


def _kept(pair: Row, taken_down: Refusals) -> Row:
    if not taken_down.names_pair(pair.uid, pair.url):
        return pair
    return replace(pair, kept=tuple(None for _ in pair.kept))


def _check_any_image(ledger: Ledger, messages: Messages, source: str) -> None:
    """Raise if there is nothing to go on with, unless the recipe or a takedown wants none of it."""
    if ledger.out or ledger.dropped.get(REFUSED):
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items())
    first = "; ".join(text for texts in messages.values() for text in list(texts)[:1])
    raise DataError(
        f"no image can be read in the shards in {source}: {ledger.entered} rows"
        f"{f', {reasons}' if reasons else ''}{f': {first}' if first else ''}. Expected plain tars of KEY.jpg, KEY.png "
        "or KEY.webp with KEY.txt and KEY.json, as img2dataset and DataComp write them; write the shards anew, or set "
        "acquire.adopt to others"
    )


def _check_failed_share(ledger: Ledger, source: str, most: float) -> None:
    failed = ledger.entered - ledger.out
    if failed <= most * ledger.entered:
        return
    top = ", ".join(f"{count} {reason}" for reason, count in list(ledger.dropped.items())[:_SHOWN])
    raise DataError(
        f"{failed} of {ledger.entered} rows of the shards in {source} failed, {failed / ledger.entered:.0%}, "
        f"more than acquire.max_failed_share={most:g} allows: {top}. The likely cause: "
        f"{likely_cause(ledger.dropped)}. Write the shards anew, or raise acquire.max_failed_share"
    )


def _problems(shards: Sequence[ReadyShard], parts: Sequence[Manifest]) -> dict[str, Any]:
    """Return what is wrong with shards that no row tells: of how many, and of the first of them what."""
    found = {
        shard.name: part.summary["problems"]
        for shard, part in zip(shards, parts, strict=True)
        if part.summary["problems"]
    }
    first = list(found)[:_MOST_PROBLEMS]
    in_all: Counter[str] = Counter()
    for problems in found.values():
        in_all.update(problems)
    return {
        "shards_with_problems": len(found),
        "problems_of_all": dict(in_all.most_common(_MOST_PROBLEMS)),
        "problems": {name: found[name] for name in first},
        "problem_names": {
            shard.name: part.summary["problem_names"]
            for shard, part in zip(shards, parts, strict=True)
            if shard.name in first
        },
    }


def _write_listing(
    shards: Sequence[ReadyShard],
    parts: Sequence[Manifest],
    texts: Sequence[Manifest],
    workspace: Workspace,
) -> None:
    rows = [
        Listed(
            part=part.key,
            texts=of_part.key,
            file=name_of(shard.table or shard.tar),
            first_row=0,
            rows=part.ledger.entered,
            out=part.ledger.out,
        )
        for shard, part, of_part in zip(shards, parts, texts, strict=True)
    ]
    write_listing(rows, workspace.output / PARTITIONS_FILE)
