"""Judge every acquired pair: one verdict row each, kept or dropped by the first rule that fails."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.curate.conditions import MEASURES, measured_columns
from neuclip.curate.config import CurateConfig
from neuclip.curate.files import CONTAMINATION, FUNNEL, GROUPS, SUBSET, VERDICTS
from neuclip.curate.funnel import Bits, Funnel, Survival, first_reason
from neuclip.curate.judge import Judge, Mask, halves_of
from neuclip.curate.pool import Pool, ScoreFolders
from neuclip.curate.rules import Language
from neuclip.curate.uids import write_subset
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.tables import ArrowTable, connect

_SURVEYED_PAIRS = 2_000_000
"""Survival and histograms of a larger pool are counted over every so many partitions, about so many pairs."""
_T = TypeVar("_T")
_SCHEMA = pa.schema(
    {
        "uid": pa.string(),
        "kept": pa.bool_(),
        "reason": pa.dictionary(pa.int8(), pa.string()),
        "failed": pa.uint64(),
    }
)


class Listing(Protocol):
    """Has a table when all partitions have been judged."""

    def table(self) -> ArrowTable:
        """Return the table."""
        ...


def run_curate(
    config: CurateConfig,
    *,
    acquire_uri: str,
    workspace: Workspace,
    progress: Progress,
    seed: int = 0,
    scores: Sequence[ScoreFolders] = (),
    masks: Mapping[str, Mask] | None = None,
    contamination: Listing | None = None,
) -> Outcome:
    """Judge the pool and write what came out.

    `verdicts.parquet`: uid, kept, reason (the first that fails), failed (bit i: reason i of the summary's
    `rules`), in the order of the input, a row group for each partition. `kept.npy`: the kept uids as DataComp's
    subset file. `funnel.json`: what each rule drops in its turn and alone, and who survives.
    `contamination.parquet`: pairs beside the evaluation sample that they match.
    `groups/REASON.parquet`: for a rule over groups the pairs it drops beside those it keeps instead.

    The ledger's `in` is the pairs that acquire has, counted by their partitions and not by the verdicts, so that a
    verdict lost on the way unbalances the ledger.

    Raises: DataError: if no pair is kept. ConfigError: if a rule does not fit the pairs' columns.
    """
    pool = Pool(acquire_uri, scores)
    with connect(workspace.scratch) as connection:
        judge = Judge(
            pool, config.rules, connection, seed=seed, scratch=workspace.scratch, masks=masks
        )
        total = len(pool.partitions)
        progress("curate", done=0, total=total, note=f"judging {total} partitions")
        judge.settle_groups()
        funnel = Funnel(judge.reasons)
        survival = _survival(config, pool, connection)
        every = max(1, round(sum(pool.counts) / _SURVEYED_PAIRS))
        kept: list[npt.NDArray[np.uint64]] = []
        with _verdict_writer(workspace.output / VERDICTS) as writer:
            for part, (pairs, bits) in _one_ahead(judge.verdicts, pool.fetch_ahead()):
                funnel.add(bits)
                if part % every == 0:
                    survival.add(pool.relation(part), bits == 0)
                writer.write_table(_verdict_rows(pairs, bits, judge.reasons))
                kept.append(halves_of(pairs["uid"].filter(pa.array(bits == 0))))
                note = f"{funnel.num_kept} kept so far"
                progress("curate", done=part + 1, total=total, note=note)
        ledger = make_ledger(sum(pool.counts), funnel.num_kept, funnel.dropped())
        _require_some(ledger)
        summary = {"rules": judge.reasons, **_notes(judge)}
        found = {
            "pairs": funnel.num_pairs,
            "steps": funnel.steps(judge.alone()),
            "surveyed_every": every,
            "survival": survival.table(),
            "histograms": survival.histograms(),
            **summary,
        }
    write_subset(workspace.output / SUBSET, kept)
    _write_lists(workspace.output, found, judge, contamination)
    return Outcome(ledger=ledger, summary=summary)


def _require_some(ledger: Ledger) -> None:
    if ledger.out == 0:
        raise DataError(
            f"curate kept none of {ledger.entered} pairs ({ledger.describe()}); loosen the rules of section `curate`"
        )


def _survival(config: CurateConfig, pool: Pool, connection: duckdb.DuckDBPyConnection) -> Survival:
    """Return what counts survivors by language and by the columns that rules measure."""
    language = next((rule.score for rule in config.rules if isinstance(rule, Language)), None)
    columns = measured_columns(config.rules)
    ranges = pool.ranges(connection, columns)
    measures = {name: (sql, ranges[name]) for name, sql in columns.items() if name in ranges}
    return Survival(connection, language=language, measures={**MEASURES, **measures})


def _write_lists(
    output: Path, found: dict[str, Any], judge: Judge, contamination: Listing | None
) -> None:
    """Write the funnel, the pairs of evaluation sets, and what rules over groups dropped."""
    (output / FUNNEL).write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if contamination is not None:
        pq.write_table(contamination.table(), output / CONTAMINATION, compression="zstd")
    for reason, dropped in judge.groups.items():
        (output / GROUPS).mkdir(exist_ok=True)
        pq.write_table(
            dropped.rows.select(["uid", "keeper_uid", "distance"]),
            output / GROUPS / f"{reason}.parquet",
            compression="zstd",
        )


def _one_ahead(work: Callable[[int], _T], parts: Iterable[int]) -> Iterator[tuple[int, _T]]:
    """Yield each part with what work makes of it, the next one under way in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        begun: tuple[int, Future[_T]] | None = None
        for part in parts:
            coming = part, thread.submit(work, part)
            if begun is not None:
                yield begun[0], begun[1].result()
            begun = coming
        if begun is not None:
            yield begun[0], begun[1].result()


def _verdict_writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        _SCHEMA,
        compression="zstd",
        use_dictionary=["reason"],  # type: ignore[arg-type]  # the stub knows bool alone
    )


def _verdict_rows(pairs: ArrowTable, bits: Bits, reasons: Sequence[str]) -> ArrowTable:
    first = first_reason(bits)
    reason = pa.DictionaryArray.from_arrays(
        pa.array(first, mask=first < 0), pa.array(list(reasons), pa.string())
    )
    columns = [pairs["uid"], pa.array(bits == 0), reason, pa.array(bits)]
    return pa.table(columns, schema=_SCHEMA)


def _notes(judge: Judge) -> dict[str, Any]:
    """Return what the subset files held besides pairs of the pool."""
    return (
        {
            "uid_lists": {
                reason: {
                    "uids": len(subset),
                    "repeats": subset.num_repeats,
                    "not_in_pool": len(subset) - subset.num_found,
                }
                for reason, subset in judge.subsets.items()
            }
        }
        if judge.subsets
        else {}
    )
