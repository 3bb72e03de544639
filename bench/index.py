"""The id table over 12.8 million members: rows/s, memory, lookups, an appended part, S3 against a folder, pandas.

`python -m bench.index`; `python -m bench.index parts FOLDER` only makes the parts, which a later run with
NEUCLIP_BENCH_PARTS=FOLDER takes.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuclip.captions.files import PARTS_FILE, PARTS_SCHEMA
from neuclip.foundation.progress import silent
from neuclip.index.config import STAGE_VERSION, IndexConfig
from neuclip.index.run import run_index
from neuclip.shards.members import MEMBER_SCHEMA
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.files import list_files, upload

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # its S3 server

from servers.s3 import KEYS, make_bucket, s3_server

PARTS, ROWS, SAMPLES_PER_SHARD = 64, 200_000, 10_000
SLICE_PARTS, LOOKUPS, REPEATS = 5, 10_000, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.environ.get("NEUCLIP_BENCH_PARTS") or make_parts(folder)
        count = PARTS * ROWS
        built = measure(root, folder, "whole", "all")
        print(
            f"index: {count:,} samples in {built['seconds']:.1f} s, {count / built['seconds']:,.0f} rows/s, "
            f"{built['cpu']:.1f} s of processors, peak {built['peak_mib']:.0f} MiB, {built['megabytes']:.0f} MB "
            f"(floor: the uids alone as integers {built['floor']:.1f} s)"
        )
        print(
            f"index: {LOOKUPS:,} uids to sample ids in {built['lookup']:.3f} s, to shard and offset in "
            f"{built['places']:.3f} s; by {REPEATS} processes at once, each in {built['lookup_shared']:.3f} s"
        )
        measure(root, folder, "grown", "most")
        grown = measure(root, folder, "grown", "all")
        print(
            f"index: the last of {PARTS} parts added in {grown['seconds']:.1f} s, {grown['reused']} parts not read"
        )
        _tell_s3(root, folder, built["seconds"])
        _tell_pandas(root, folder)


def make_parts(folder: str, *, parts: int = PARTS) -> str:
    """Commit parts of the shard stage that have member tables and no tars, and stages that list some and all."""
    keys = [f"part{number:02d}" for number in range(parts)]
    for number, key in enumerate(keys):
        ledger = make_ledger(ROWS, ROWS, {})
        identity = StageIdentity("shard", 1, key, {}, {}, folder, part=True)

        def fill(workspace, number=number, key=key, ledger=ledger):
            pq.write_table(
                _members(number, key), workspace.output / "members.parquet", compression="zstd"
            )
            return Outcome(ledger, {"first_sample_id": number * ROWS, "shards": {}})

        commit_stage(identity, fill)
    for name, listed in (("all", keys), ("most", keys[:-1]), ("slice", keys[:SLICE_PARTS])):
        ledger = make_ledger(len(listed) * ROWS, len(listed) * ROWS, {})
        commit_stage(
            StageIdentity("shard", 1, name, {}, {}, folder),
            lambda _, ledger=ledger, listed=listed: Outcome(ledger, parts=listed),
        )
    commit_stage(StageIdentity("caption", 1, "none", {}, {}, folder), _no_texts)
    return folder


def _no_texts(workspace: Workspace) -> Outcome:
    """Leave a caption stage without any text: `bench.texts` measures side files."""
    pq.write_table(PARTS_SCHEMA.empty_table(), workspace.output / PARTS_FILE)
    return Outcome(make_ledger(0, 0, {}))


def _members(number: int, key: str) -> pa.Table:
    draw = np.random.default_rng(number)
    uid = _hexes(draw, 32)
    sizes, texts = draw.integers(8_000, 40_000, ROWS), draw.integers(150, 400, ROWS)
    places = np.arange(ROWS)
    shards = [f"parts/{key}/shard-{n:06d}.tar" for n in range(ROWS // SAMPLES_PER_SHARD)]
    offsets = np.concatenate(
        [np.cumsum(part) for part in (sizes + texts + 2048).reshape(-1, SAMPLES_PER_SHARD)]
    )
    columns = {
        "split": pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int32), ["train"]).cast("string"),
        "sample_id": number * ROWS + places,
        "uid": uid,
        "shard": pa.DictionaryArray.from_arrays(
            places.astype(np.int32) // SAMPLES_PER_SHARD, shards
        ).cast("string"),
        "image_member": pc.binary_join_element_wise(uid, "jpg", "."),
        "image_offset": offsets,
        "image_size": sizes,
        "json_offset": offsets + sizes,
        "json_size": texts,
        "width": draw.integers(256, 500, ROWS),
        "height": draw.integers(256, 500, ROWS),
        "image_sha256": _hexes(draw, 64),
        "text_offset": offsets + sizes + texts,
        "text_size": texts // 4,
    }
    return pa.table(columns).cast(MEMBER_SCHEMA)


def _hexes(draw: np.random.Generator, width: int) -> pa.StringArray:
    digits = draw.bytes(ROWS * width // 2).hex().encode()
    ends = np.arange(0, (ROWS + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(ROWS, pa.py_buffer(ends), pa.py_buffer(digits))


def measure(root: str, folder: str, name: str, shards: str) -> dict:
    """Build an index in a process of its own: seconds without start-up, peak memory; then look up."""
    words = [sys.executable, "-m", "bench.index", "measure", root, folder, name, shards]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def _measure(root: str, folder: str, name: str, shards: str) -> None:
    identity = StageIdentity(
        "index", STAGE_VERSION, f"{name}-{shards}", IndexConfig().keyed(), {}, f"{folder}/{name}"
    )
    if "://" in root:
        identity = StageIdentity("index", STAGE_VERSION, shards, IndexConfig().keyed(), {}, root)
    start, cpu = time.perf_counter(), time.process_time()
    manifest, _ = commit_stage(
        identity,
        lambda workspace: run_index(
            IndexConfig(),
            shard_uri=f"{root}/shard/{shards}",
            caption_uri=f"{root}/caption/none",
            root=identity.root,
            workspace=workspace,
            progress=silent,
        ),
    )
    told = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    told["reused"] = manifest.summary["reused_parts"]
    told["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if "://" not in root:
        path = Path(identity.uri) / "index.duckdb"
        told |= {
            "megabytes": path.stat().st_size / 1e6,
            **_look_up(path),
            "floor": _floor(root),
        }
    print(json.dumps(told))


def _floor(root: str) -> float:
    """Read the uids of all members as integers, and nothing else."""
    start = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        connection.execute(
            "SELECT sum(('0x' || uid[1:16])::UBIGINT::DOUBLE + ('0x' || uid[17:32])::UBIGINT::DOUBLE) "
            "FROM read_parquet($1)",
            [f"{root}/shard/parts/*/members.parquet"],
        ).fetchall()
    return time.perf_counter() - start


def _look_up(path: Path) -> dict[str, float]:
    """Find uids drawn from all over: best of several times in one connection, and in several processes at once."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET threads = 2")
        rows = connection.execute("SELECT count(*) FROM samples").fetchall()[0][0]
        wanted = np.random.default_rng(0).choice(rows, min(LOOKUPS, rows), replace=False)
        connection.register("wanted", pa.table({"sample_id": wanted}))
        keys = connection.sql(
            "SELECT uid_hi, uid_lo FROM samples SEMI JOIN wanted USING (sample_id)"
        ).to_arrow_table()
        connection.register("keys", keys)
        times = {}
        for name, columns in (
            ("lookup", "sample_id"),
            ("places", "sample_id, shard, image_offset, image_size"),
        ):
            found, times[name] = 0, []
            for _ in range(REPEATS):
                start = time.perf_counter()
                found = len(
                    connection.execute(
                        f"SELECT {columns} FROM samples JOIN keys USING (uid_hi, uid_lo)"
                    ).fetchall()
                )
                times[name].append(time.perf_counter() - start)
            assert found == len(keys), (found, len(keys))
    pq.write_table(keys, path.with_name("keys.parquet"))
    words = [sys.executable, "-m", "bench.index", "lookup", str(path)]
    together = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(REPEATS)]
    shared = [float(child.communicate()[0]) for child in together]
    return {name: min(found) for name, found in times.items()} | {"lookup_shared": max(shared)}


def _look_up_again(path: str) -> None:
    with duckdb.connect(path, read_only=True) as connection:
        connection.register("keys", pq.read_table(Path(path).with_name("keys.parquet")))
        start = time.perf_counter()
        connection.execute(
            "SELECT sample_id FROM samples JOIN keys USING (uid_hi, uid_lo)"
        ).fetchall()
        print(time.perf_counter() - start)


def _tell_s3(root: str, folder: str, here_s: float) -> None:
    with s3_server() as url:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url, "NEUCLIP_CACHE": f"{folder}/cache"})
        bucket = make_bucket({**KEYS, "AWS_ENDPOINT_URL": url})
        for stage in ("shard", "caption"):
            for name in list_files(f"{root}/{stage}"):
                upload(Path(root, stage, name), f"{bucket}/{stage}/{name}")
        there = measure(bucket, folder, "s3", "all")
        shutil.rmtree(f"{folder}/cache", ignore_errors=True)
    print(
        f"index: from an S3 root with a cold cache {there['seconds']:.1f} s, {there['seconds'] / here_s:.2f} times "
        f"a folder, peak {there['peak_mib']:.0f} MiB"
    )


def _tell_pandas(root: str, folder: str) -> None:
    """A slice of a million: our index against a data frame with the uid as its index, kept as Parquet."""
    ours = measure(root, folder, "slice", "slice")
    words = [sys.executable, "-m", "bench.index", "pandas", root, folder]
    theirs = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"index: {SLICE_PARTS * ROWS:,} samples in {ours['seconds']:.1f} s and {ours['peak_mib']:.0f} MiB, pandas "
        f"{theirs['seconds']:.1f} s and {theirs['peak_mib']:.0f} MiB, ratio {theirs['seconds'] / ours['seconds']:.2f}; "
        f"{LOOKUPS:,} uids from disk {ours['lookup']:.3f} s, pandas {theirs['lookup']:.3f} s in memory after reading "
        f"for {theirs['read']:.1f} s"
    )


def _pandas(root: str, folder: str) -> None:
    start = time.perf_counter()
    parts = sorted(Path(root).glob("shard/parts/*/members.parquet"))[:SLICE_PARTS]
    table = pd.concat([pd.read_parquet(part) for part in parts])
    table = table[table["split"] == "train"].drop(columns="split")
    table["uid_hi"] = table["uid"].str[:16].map(lambda text: int(text, 16)).astype("uint64")
    table["uid_lo"] = table["uid"].str[16:].map(lambda text: int(text, 16)).astype("uint64")
    assert table["uid"].is_unique
    path = Path(folder) / "pandas.parquet"
    table.to_parquet(path, index=False)
    seconds = time.perf_counter() - start
    keys = table["uid"].sample(LOOKUPS, random_state=0)
    start = time.perf_counter()
    read = pd.read_parquet(path, columns=["uid", "sample_id"]).set_index("uid")["sample_id"]
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    assert len(read.loc[keys]) == LOOKUPS
    lookup = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "lookup": lookup, "read": read_s}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", root, folder, name, shards]:
            _measure(root, folder, name, shards)
        case ["lookup", path]:
            _look_up_again(path)
        case ["pandas", root, folder]:
            _pandas(root, folder)
        case ["parts", folder]:
            make_parts(folder)
        case _:
            main()
