"""A committed index whose features and clusters are made by hand."""

import shutil
from pathlib import Path

import duckdb
import numpy as np

from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage

FEATURES = "features (sample_id BIGINT, model VARCHAR, image_feature FLOAT[], text_feature FLOAT[])"
CLUSTERS = "clusters (sample_id BIGINT, model VARCHAR, cluster INTEGER)"


def count_samples(index_uri: str) -> int:
    with duckdb.connect(f"{index_uri}/index.duckdb", read_only=True) as connection:
        return connection.sql("SELECT count(*) FROM samples").fetchall()[0][0]


def commit_index(
    index_uri: str, root: Path, *, key="made", features=(), clusters=(), parts=("a",)
) -> str:
    """Commit a copy of an index with further rows (tuples of the columns above)."""

    def fill(workspace):
        sides = Path(index_uri, "side_files.parquet")
        shutil.copy(sides, workspace.output)
        if not Path(root, "index", "parts").exists():
            shutil.copytree(Path(index_uri).parent / "parts", Path(root, "index", "parts"))
        path = workspace.output / "index.duckdb"
        shutil.copy(f"{index_uri}/index.duckdb", path)
        with duckdb.connect(str(path)) as connection:
            for table, rows in ((FEATURES, features), (CLUSTERS, clusters)):
                if rows:
                    name, columns = table.split()[0], table.count(",") + 1
                    connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                    marks = ", ".join(f"${place + 1}" for place in range(columns))
                    names = ", ".join(p.split()[0] for p in table.split("(")[1].split(", "))
                    connection.executemany(
                        f"INSERT INTO {name} ({names}) VALUES ({marks})",
                        [list(row) for row in rows],
                    )
        return Outcome(ledger=make_ledger(1, 1, {}), summary={"parts": list(parts)})

    identity = StageIdentity("index", 1, key, {}, {}, str(root))
    commit_stage(identity, fill)
    return identity.uri


def some_features(count: int, *, width=6, seed=0, model="m") -> list[tuple]:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, 2, width)).round(3)
    return [(n, model, rows[n, 0].tolist(), rows[n, 1].tolist()) for n in range(count)]


def some_clusters(count: int, *, model="m") -> list[tuple]:
    return [(n, model, (n * n) % 7) for n in range(count)]
