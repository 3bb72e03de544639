"""12.8 million texts through caption and into side files: seconds, memory, bytes; then another source beside them, one
that is imported, its rows in another order, and, of few files, one that a model writes.

`python -m bench.texts [FILES]`, a file of the pool being 200,000 pairs. Each stage runs in a process of its own, whose
peak memory is told.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.captions import AtOnce
from bench.curate import FILES, ROWS, make_pool
from neuclip.captions.config import CaptionConfig
from neuclip.captions.generated import Writing
from neuclip.captions.imports import ImportedTable
from neuclip.captions.run import run_caption
from neuclip.captions.template import Template
from neuclip.curate.files import SUBSET
from neuclip.curate.uids import write_subset
from neuclip.foundation.ids import as_integers
from neuclip.foundation.progress import silent
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.run import run_index
from neuclip.shards.members import MEMBER_SCHEMA
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage

SAMPLES_PER_SHARD = 10_000
DERIVED = CaptionConfig(derive=[Template(source="told", text="seen: {alt}")])
SOURCES = {
    "alt": "one source",
    "told": "another source beside it",
    "imported": "an imported source beside it",
    "written": "one that a model wrote at once",
}
FILES_WRITTEN = 4
"""At most: questions, checks and journal take 0.2 ms an answer, 43 minutes for 12.8 million."""
WRITTEN = CaptionConfig.model_validate(
    {
        "models": {"any": {"kind": "endpoint", "model": "any", "address": "http://127.0.0.1:9/v1"}},
        "generate": [{"kind": "rewrite", "source": "written", "model": "any", "texts": 1}],
    }
)


def main(files: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        make_pool(root, files=files)
        uids = [
            pq.read_table(path, columns=["uid"])["uid"]
            for path in sorted(Path(root).glob("acquire/parts/part*/rows.parquet"))
        ]
        _commit_kept(root, uids)
        _commit_members(root, uids)
        _write_import(root, uids)
        pairs = files * ROWS
        floor = _floor(root)
        for source, name in SOURCES.items():
            if source == "written" and files > FILES_WRITTEN:
                continue
            for stage in ("caption", "index"):
                words = [sys.executable, "-m", "bench.texts", "measure", stage, root, source]
                told = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
                print(
                    f"{stage}, {name}: {pairs:,} pairs in "
                    f"{told['seconds']:.0f} s, {pairs / told['seconds']:,.0f} pairs/s, peak {told['peak_mib']:.0f} MiB "
                    f"(floor: reading uids and texts {floor:.0f} s)",
                    flush=True,
                )
        for name in ("texts.parquet", "*.arrow"):
            paths = [p for s in ("caption", "index") for p in Path(root, s).glob(f"parts/*/{name}")]
            print(
                f"{name}: {sum(p.stat().st_size for p in paths) / 1e6:,.0f} MB in {len(paths)} files"
            )


def _measure(stage: str, root: str, source: str) -> None:
    imported = ImportedTable(source="imported", table=f"{root}/imported", key="uid")
    configs = {
        "told": DERIVED,
        "imported": CaptionConfig(imports=[imported]),
        "written": WRITTEN,
    }
    config = configs.get(source, CaptionConfig())
    caption = StageIdentity("caption", 1, source, {}, {}, root)

    def work(workspace):
        if stage == "caption":
            return run_caption(
                config,
                root=root,
                acquire_uri=f"{root}/acquire/pool",
                curate_uri=f"{root}/curate/all",
                writings=[
                    Writing(step, config.models[step.model], "", Loaded(AtOnce))
                    for step in config.generate
                ],
                workspace=workspace,
                progress=silent,
            )
        return run_index(
            IndexConfig(),
            shard_uri=f"{root}/shard/all",
            caption_uri=caption.uri,
            root=root,
            workspace=workspace,
            progress=silent,
        )

    index = StageIdentity("index", STAGE_VERSION, source, IndexConfig().keyed(), {}, root)
    start = time.perf_counter()
    commit_stage(caption if stage == "caption" else index, work)
    seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib}))


def _commit_kept(root: str, uids: list[pa.ChunkedArray]) -> None:
    """Commit a curate stage that keeps every pair; captions read its subset file alone."""
    count = sum(map(len, uids))

    def fill(workspace):
        halves = [as_integers("".join(part.to_pylist())) for part in uids]
        write_subset(workspace.output / SUBSET, halves)
        return Outcome(make_ledger(count, count, {}))

    commit_stage(StageIdentity("curate", 1, "all", {}, {}, root), fill)


def _commit_members(root: str, uids: list[pa.ChunkedArray]) -> None:
    """Commit shards without tars: every part has the pairs of a partition of the pool, shuffled."""
    keys = [f"part{number:02d}" for number in range(len(uids))]
    for number, (key, of_part) in enumerate(zip(keys, uids, strict=True)):

        def fill(workspace, number=number, key=key, of_part=of_part):
            count = len(of_part)
            rows = np.arange(count)
            columns = {name: pa.nulls(count, kind) for name, kind in _kinds().items()}
            columns["split"] = pa.array(["train"] * count)
            columns["sample_id"] = pa.array(number * ROWS + rows)
            columns["uid"] = of_part.take(np.random.default_rng(number).permutation(count))
            names = [f"parts/{key}/shard-{row // SAMPLES_PER_SHARD:06d}.tar" for row in rows]
            columns["shard"] = pa.array(names)
            pq.write_table(
                pa.table(columns, schema=MEMBER_SCHEMA), workspace.output / "members.parquet"
            )
            summary = {"first_sample_id": number * ROWS, "shards": {}}
            return Outcome(make_ledger(count, count, {}), summary)

        commit_stage(StageIdentity("shard", 1, key, {}, {}, root, part=True), fill)
    count = sum(map(len, uids))
    commit_stage(
        StageIdentity("shard", 1, "all", {}, {}, root),
        lambda _: Outcome(make_ledger(count, count, {}), parts=keys),
    )


def _write_import(root: str, uids: list[pa.ChunkedArray]) -> None:
    """Write tables with a text for each pair; neighbours are of different partitions."""
    Path(root, "imported").mkdir()
    for number in range(len(uids)):
        columns = [part.take(np.arange(number, len(part), len(uids))) for part in uids]
        keys = pa.chunked_array([chunk for part in columns for chunk in part.chunks])
        texts = [
            f"a text that somebody else wrote for the picture {uid}" for uid in keys.to_pylist()
        ]
        table = pa.table({"uid": keys, "caption": texts})
        pq.write_table(table, Path(root, "imported", f"{number:02d}.parquet"))


def _kinds() -> dict[str, pa.DataType]:
    return {field.name: field.type for field in MEMBER_SCHEMA}


def _floor(root: str) -> float:
    start = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        connection.execute(
            "SELECT max(uid), sum(length(captions['alt'][1])) FROM read_parquet($1)",
            [f"{root}/acquire/parts/texts*/texts.parquet"],
        ).fetchall()
    return time.perf_counter() - start


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", stage, root, source]:
            _measure(stage, root, source)
        case [files]:
            main(int(files))
        case _:
            main(FILES)
