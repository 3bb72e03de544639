"""Gather the captions of every kept pair by source."""

import duckdb

from neuclip.acquire.raw import rows_paths
from neuclip.captions.config import CaptionConfig
from neuclip.captions.files import CAPTIONS
from neuclip.curate.files import VERDICTS
from neuclip.foundation.errors import DataError, nearest
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.tables import connect, count_rows, fill_from_files, write_parquet

_KEPT = """
    SELECT row_number() OVER () AS position, r.uid, r.captions
    FROM fetched r SEMI JOIN (SELECT uid FROM read_parquet($verdicts) WHERE kept) v ON r.uid = v.uid"""

_FETCHED = "SELECT uid, captions FROM read_parquet($files) WHERE status = 'success'"

_PASSED = """
    SELECT uid, passed AS captions FROM (
        SELECT position, uid, map_from_entries(list_transform(
            list_filter(map_entries(captions), lambda e: list_contains($sources, e.key) AND len(e.value) > 0),
            lambda e: {'key': e.key, 'value': e.value[1:$most]})) AS passed
        FROM kept)
    WHERE cardinality(passed) > 0 ORDER BY position"""

_BY_SOURCE = """
    SELECT source, count(*) FROM (SELECT unnest(map_keys(captions)) AS source FROM read_parquet($1))
    GROUP BY 1 ORDER BY 1"""


def run_caption(
    config: CaptionConfig,
    *,
    acquire_uri: str,
    curate_uri: str,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Write `captions.parquet`: uid, captions (MAP source -> list of texts), in the order of the input.

    A kept pair that has no caption in any of the named sources is dropped as `no_caption_in_sources`.

    Raises: DataError: if a named source exists for no pair at all, or no pair is left.
    """
    progress("caption", done=0, total=1, note="gathering captions")
    rows = rows_paths(acquire_uri)
    verdicts = str(committed_file(curate_uri, VERDICTS))
    target = workspace.output / CAPTIONS
    with connect(workspace.scratch) as connection:
        fill_from_files(connection, "fetched", _FETCHED, rows)
        connection.execute(f"CREATE TEMP TABLE kept AS {_KEPT}", {"verdicts": verdicts})
        connection.execute("DROP TABLE fetched")
        sources = _sources(connection, config)
        write_parquet(
            connection, _PASSED, target, {"sources": sources, "most": config.max_per_source}
        )
        out = count_rows(connection, target)
        entered = int(connection.execute("SELECT count(*) FROM kept").fetchall()[0][0])
        by_source = {
            str(s): int(n) for s, n in connection.execute(_BY_SOURCE, [str(target)]).fetchall()
        }
    if out == 0:
        raise DataError(
            f"none of {entered} kept pairs has a caption in {sources}; name others in caption.sources"
        )
    progress("caption", done=1, total=1, note=f"{out} pairs with captions")
    ledger = make_ledger(entered, out, {"no_caption_in_sources": entered - out})
    return Outcome(ledger=ledger, summary={"pairs_by_source": by_source})


def _sources(connection: duckdb.DuckDBPyConnection, config: CaptionConfig) -> list[str]:
    """Return the sources to pass on; each must exist for some pair."""
    query = "SELECT DISTINCT unnest(map_keys(captions)) AS source FROM kept ORDER BY source"
    known = [str(row[0]) for row in connection.execute(query).fetchall()]
    for source in config.sources or []:
        if source not in known:
            raise DataError(
                f"caption.sources names {source!r}, which no pair has; sources here: {', '.join(known)}."
                f"{nearest(source, known)} A column becomes a source by acquire.caption_columns"
            )
    return config.sources or known
