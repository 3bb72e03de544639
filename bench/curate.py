"""Rules over 12.8 million rows shaped like DataComp's metadata: rows/s, memory, S3 against a folder, pandas on a slice.

`python -m bench.curate`; `python -m bench.curate pool FOLDER` only makes the pool, which a later run with
NEUCLIP_BENCH_POOL=FOLDER takes.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.listing import LISTING_SCHEMA, PARTITIONS_FILE
from neuclip.acquired.texts import TEXTS
from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.foundation.progress import silent
from neuclip.stages.ledger import add_ledgers, make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # its S3 server

from servers.s3 import KEYS, make_bucket, s3_server

FILES, ROWS = 64, 200_000
SLICE_FILES = 5
BASIC = [
    {"kind": "caption_words", "min": 3},
    {"kind": "caption_characters", "min": 6},
    {"kind": "image_side", "min": 200},
    {"kind": "aspect_ratio", "max": 3},
]
THRESHOLD = [{"kind": "top_fraction", "column": "clip_l14_similarity_score", "fraction": 0.3}]
_WORDS = (
    "photo red blue house dog cat vintage shoes women new black white best online art print car 2019 free kids "
    "garden wooden table lamp phone case the of and with for in"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.environ.get("NEUCLIP_BENCH_POOL") or make_pool(folder)
        for name in ("basic", "threshold"):
            told = measure(name, root)
            rate = FILES * ROWS / told["seconds"]
            print(
                f"curate {name}: {FILES * ROWS:,} rows in {told['seconds']:.1f} s, {rate:,.0f} rows/s, "
                f"{told['kept']:,} kept, peak {told['peak_mib']:.0f} MiB (floor: reading its columns "
                f"{told['floor']:.1f} s)"
            )
            _tell_pandas(name, folder)
        _tell_s3(root, folder)


def make_pool(folder: str, *, files: int = FILES, rows: int = ROWS) -> str:
    """Commit an acquire stage of so many partitions; captions of 1 to 14 words, uniform scores."""
    keys, ledgers, listed = [], [], []
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET memory_limit = '2GB'")
        for number in range(files):
            identity = StageIdentity("acquire", 1, f"part{number:02d}", {}, {}, folder, part=True)

            def fill(workspace, first=number * rows):
                _write_rows(connection, workspace.output / "rows.parquet", first, rows)
                return Outcome(make_ledger(rows, rows, {}))

            manifest, _ = commit_stage(identity, fill)
            keys.append(identity.key)
            ledgers.append(manifest.ledger)
            listed.append(
                {
                    "part": identity.key,
                    "texts": _commit_texts(connection, number, folder, rows),
                    "rows": rows,
                    "out": rows,
                }
            )

        def fill_stage(workspace):
            (workspace.output / "columns").mkdir()
            for number, key in enumerate(keys):
                path = workspace.output / "columns" / f"{key}.parquet"
                _write_columns(connection, path, number * rows, rows)
            table = pa.Table.from_pylist(listed, schema=LISTING_SCHEMA)
            pq.write_table(table, workspace.output / PARTITIONS_FILE)
            return Outcome(add_ledgers(ledgers), parts=keys)

        commit_stage(StageIdentity("acquire", 1, "pool", {}, {}, folder), fill_stage)
    return folder


def measure(name: str, root: str) -> dict:
    """Run rules over a pool in a process of its own: seconds of wall time without start-up, peak memory."""
    words = [sys.executable, "-m", "bench.curate", "measure", name, root]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def _measure(name: str, root: str) -> None:
    rules = {"basic": BASIC, "threshold": THRESHOLD}[name]
    config = CurateConfig.model_validate({"rules": rules})
    with tempfile.TemporaryDirectory() as folder:
        identity = StageIdentity("curate", 1, name, {}, {}, folder)
        start = time.perf_counter()
        manifest, _ = commit_stage(
            identity,
            lambda workspace: run_curate(
                config, acquire_uri=f"{root}/acquire/pool", workspace=workspace, progress=silent
            ),
        )
        seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    floor = 0.0
    if "://" not in root:
        start = time.perf_counter()
        _read_columns(name, root)
        floor = time.perf_counter() - start
    print(
        json.dumps(
            {"seconds": seconds, "kept": manifest.ledger.out, "peak_mib": peak_mib, "floor": floor}
        )
    )


def _read_columns(name: str, root: str) -> None:
    table, columns = {
        "basic": ("parts/part*/rows", "uid, original_width, original_height, url"),
        "threshold": ("pool/columns/*", "uid, clip_l14_similarity_score"),
    }[name]
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        wanted = ", ".join(f"max({column})" for column in columns.split(", "))
        connection.execute(
            f"SELECT {wanted} FROM read_parquet('{root}/acquire/{table}.parquet')"
        ).fetchall()


def _tell_pandas(name: str, folder: str) -> None:
    """The same on a slice, ours against pandas as DataComp's baselines use it."""
    slice_root = Path(folder, "slice")
    if not slice_root.exists():
        make_pool(str(slice_root), files=SLICE_FILES)
    ours = measure(name, str(slice_root))
    start = time.perf_counter()
    kept = {"basic": _basic_by_pandas, "threshold": _threshold_by_pandas}[name](
        slice_root / "acquire"
    )
    seconds = time.perf_counter() - start
    assert kept == ours["kept"], (kept, ours["kept"])
    print(
        f"curate {name}, {SLICE_FILES * ROWS:,} rows: ours {ours['seconds']:.1f} s, pandas {seconds:.1f} s (same "
        f"{kept:,} uids), ratio {seconds / ours['seconds']:.1f}"
    )


def _basic_by_pandas(folder: Path) -> int:
    subsets = []
    for path in sorted(folder.glob("parts/*/rows.parquet")):
        table = pd.read_parquet(path, columns=["uid", "original_width", "original_height"])
        beside = path.parents[1] / path.parent.name.replace("part", "texts") / TEXTS
        captions = pd.read_parquet(beside, columns=["captions"]).captions
        text = captions.apply(lambda of_pair: of_pair[0][1][0])
        short = np.minimum(table.original_width, table.original_height)
        long = np.maximum(table.original_width, table.original_height)
        mask = (text.apply(lambda words: len(words.split())) > 2) & (text.apply(len) > 5)
        subsets.append(_subset(table.uid[mask & (short >= 200) & (long / short <= 3)]))
    return len(_saved(subsets, folder))


def _threshold_by_pandas(folder: Path) -> int:
    paths = sorted(folder.glob("pool/columns/*.parquet"))
    column = "clip_l14_similarity_score"
    table = pd.concat([pd.read_parquet(path, columns=["uid", column]) for path in paths])
    least = -np.sort(-table[column].to_numpy())[int(len(table) * 0.3)]
    return len(_saved([_subset(table.uid[table[column] >= least])], folder))


def _subset(uids: pd.Series) -> np.ndarray:
    return np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))


def _saved(subsets: list[np.ndarray], folder: Path) -> np.ndarray:
    every = np.sort(np.concatenate(subsets))
    np.save(folder / "pandas.npy", every)
    return every


def _tell_s3(root: str, folder: str) -> None:
    """The same pool on an S3 server of this machine, which takes its share of the two cores; cache cold."""
    with s3_server() as url:
        environment = {**KEYS, "AWS_ENDPOINT_URL": url}
        os.environ.update(environment)
        bucket = make_bucket(environment)
        subprocess.run([sys.executable, "-m", "bench.curate", "upload", root, bucket], check=True)
        for name in ("basic", "threshold"):
            here = measure(name, root)
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                os.environ["NEUCLIP_CACHE"] = cache
                there = measure(name, bucket)
            ratio = there["seconds"] / here["seconds"]
            print(
                f"curate {name} on S3, cold: {there['seconds']:.1f} s against {here['seconds']:.1f} s, "
                f"{ratio:.1f} times"
            )


def _upload(root: str, target: str) -> None:
    from neuclip.storage.files import list_files, upload

    for name in list_files(f"{root}/acquire"):
        upload(Path(root, "acquire", name), f"{target}/acquire/{name}")


def _write_rows(connection: duckdb.DuckDBPyConnection, path: Path, first: int, rows: int) -> None:
    connection.execute(
        f"""COPY (
        SELECT md5('a' || i) AS uid,
            'https://www.example-' || (h % 5000) || '.com/images/' || md5('u' || i) || '.jpg' AS url,
            'success' AS status, NULL::VARCHAR AS reason, NULL::VARCHAR AS detail,
            (100 + h % 1200)::INT AS width, (100 + g % 1200)::INT AS height,
            (100 + h % 1200)::INT AS original_width, (100 + g % 1200)::INT AS original_height,
            md5('s' || i) || md5('t' || i) AS sha256, i::VARCHAR AS member, i * 30000 AS "offset",
            30000::BIGINT AS size
        FROM (SELECT i, hash(i) AS h, hash(i + 1000000007) AS g
              FROM range({first}, {first + rows}) t(i)) ORDER BY i) TO '{path}' (COMPRESSION zstd)"""
    )


def _commit_texts(
    connection: duckdb.DuckDBPyConnection, number: int, folder: str, rows: int
) -> str:
    """Commit the texts of a partition, row by row beside it; return the part."""
    first = number * rows
    sources = {"alt": {"texts": rows, "unusable": 0, "digest": f"texts of {first}"}}
    identity = StageIdentity(
        "acquire", 1, f"texts{number:02d}", {}, {"texts": "made"}, folder, part=True
    )

    def fill(workspace):
        connection.execute(
            f"""COPY (
            SELECT md5('a' || i) AS uid,
                MAP {{'alt': [array_to_string(list_transform(range(0, (1 + g % 14)::BIGINT),
                    lambda j: words[1 + ((h >> (j * 4)::INT) % 32)::INT]), ' ')]}} AS captions,
                MAP {{}}::MAP(VARCHAR, INT) AS unusable
            FROM (SELECT i, hash(i) AS h, hash(i + 1000000007) AS g, string_split($1, ' ') AS words
                  FROM range({first}, {first + rows}) t(i)) ORDER BY i)
            TO '{workspace.output / TEXTS}' (COMPRESSION zstd)""",
            [_WORDS],
        )
        return Outcome(make_ledger(rows, rows, {}), {"sources": sources})

    commit_stage(identity, fill)
    return identity.key


def _write_columns(
    connection: duckdb.DuckDBPyConnection, path: Path, first: int, rows: int
) -> None:
    connection.execute(
        f"""COPY (
        SELECT md5('a' || i) AS uid, ((hash(i * 3) % 100000) / 200000.0)::FLOAT AS clip_b32_similarity_score,
            ((hash(i * 7) % 100000) / 200000.0)::FLOAT AS clip_l14_similarity_score
        FROM range({first}, {first + rows}) t(i) ORDER BY i) TO '{path}' (COMPRESSION zstd)"""
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["pool", folder]:
            make_pool(folder)
        case ["measure", name, root]:
            _measure(name, root)
        case ["upload", root, target]:
            _upload(root, target)
