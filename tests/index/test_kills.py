"""Oracle: the same stages at another root, which nobody killed."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import duckdb
import pytest
from made.acquired import some_pairs
from made.committed import vouch_for
from made.kills import KILLS
from made.packed import pack

from neuclip.foundation.errors import IntegrityError
from neuclip.index.reader import read_samples
from neuclip.stages.manifest import read_manifest, verify_sizes

FIRST, BOTH = [some_pairs(300)], [some_pairs(300), some_pairs(300, first=300)]


def content_of(packed):
    """Return the bytes of all tars and tables of the shard stage, and the rows of the index's tables."""
    room = Path(packed.shard).parent
    parts = read_manifest(packed.shard).parts
    folders = [room / "parts" / key for key in parts] + [Path(packed.shard)]
    files = {
        path.relative_to(room): path.read_bytes()
        for folder in folders
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    for folder in [*folders, Path(packed.index)]:
        verify_sizes(str(folder), read_manifest(str(folder)))
    with duckdb.connect(f"{packed.index}/index.duckdb", read_only=True) as connection:
        tables = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in ("parts", "samples")
        }
    return parts, files, tables


def in_child(root, *, key, method="fork"):
    child = multiprocessing.get_context(method).Process(
        target=pack, args=(root, BOTH), kwargs={"key": key}
    )
    child.start()
    return child


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_change_nothing(tmp_path):
    """Each time one part is there, and a second is packed and indexed, killed at another moment and done again."""
    pack(tmp_path / "begun", FIRST, key="one")
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    start = time.monotonic()
    in_child(tmp_path / "whole", key="two").join()
    takes_s = time.monotonic() - start
    whole = content_of(pack(tmp_path / "whole", BOTH, key="two"))
    killed, seen = 0, set()
    while killed < KILLS:
        root = tmp_path / "killed"
        shutil.copytree(tmp_path / "begun", root)
        child = in_child(root, key="two")
        child.join((killed + 0.5) / KILLS * takes_s)
        if child.is_alive():
            child.kill()
            killed += 1
        child.join()
        seen.add(tuple(sorted(str(p.relative_to(root)) for p in root.rglob("manifest.json"))))
        assert content_of(pack(root, BOTH, key="two")) == whole
        shutil.rmtree(root)
    print(
        f"{killed} kills at {len(seen)} different states of the root, {takes_s:.1f} s undisturbed"
    )
    assert len(seen) > 3


def test_two_writers_at_once_end_with_one_content(tmp_path):
    whole = content_of(pack(tmp_path / "alone", BOTH, key="two"))
    # As three programs: a fork of a process in which many tests have left threads is none.
    children = [in_child(tmp_path / "together", key="two", method="spawn") for _ in range(3)]
    for child in children:
        child.join(100)
    codes = [child.exitcode for child in children]
    assert 0 in codes
    assert content_of(pack(tmp_path / "together", BOTH, key="two")) == whole
    assert codes == [0, 0, 0]


def test_an_index_that_is_not_what_was_committed_is_named(tmp_path):
    path = Path(pack(tmp_path, FIRST).index) / "index.duckdb"
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.raises(IntegrityError, match=r"index.duckdb has SHA-256 .*--only index --force"):
        read_samples(str(path.parent))


def test_an_index_that_this_duckdb_cannot_open_is_named(tmp_path):
    path = Path(pack(tmp_path, FIRST).index) / "index.duckdb"
    path.write_bytes(os.urandom(path.stat().st_size))
    vouch_for(path, path.parent)
    with pytest.raises(IntegrityError, match=r"cannot be opened as an index.*--only index --force"):
        read_samples(str(path.parent))
