"""Side files of texts without the stages above them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.index.side_files import (
    SIDE_FILES,
    SIDE_FILES_SCHEMA,
    texts_name,
    write_texts,
)
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


def commit_side_files(
    root: str | Path, texts: dict[str, dict[str, list[list[str]]]], key="index-key"
) -> str:
    """Commit an index of nothing but side files; `texts`: source -> shard by its name -> texts of its samples."""
    rows = []
    for source, shards in texts.items():
        for part in dict.fromkeys(name.split("/")[1] for name in shards):
            own = {name: texts for name, texts in shards.items() if name.split("/")[1] == part}
            count = sum(len(of_sample) for texts in own.values() for of_sample in texts)
            identity = StageIdentity(
                "index",
                1,
                f"{key}-{source}-{part}",
                {"source": source},
                {"shard part": part},
                str(root),
                part=True,
            )

            def write(workspace, source=source, own=own, count=count):
                for name, of_samples in own.items():
                    path = workspace.output / texts_name(name)
                    write_texts(path, of_samples, source=source, shard=name)
                return Outcome(make_ledger(count, count, {}))

            commit_stage(identity, write)
            rows.append(
                {"source": source, "shard_part": part, "part": identity.key, "texts": count}
            )
    index = StageIdentity("index", 1, key, {}, {}, str(root))

    def listed(workspace):
        pq.write_table(
            pa.Table.from_pylist(rows, schema=SIDE_FILES_SCHEMA), workspace.output / SIDE_FILES
        )
        return Outcome(make_ledger(1, 1, {}))

    commit_stage(index, listed)
    return index.uri
