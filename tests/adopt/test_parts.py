"""Shards are verified part by part. Oracles: calls of what verifies one, and what lies at the root."""

from pathlib import Path

import pytest
from made.pools import PicklingPool
from made.ready import Sample, failed, write_ready

from neuclip.adopt import parts
from neuclip.foundation.errors import DataError
from neuclip.stages.manifest import is_committed, read_manifest
from neuclip.stages.pool import LOCAL

POOLS = pytest.mark.parametrize("pool", [LOCAL, PicklingPool()], ids=["local", "threads"])


class EndedError(BaseException):
    """Ends a run from outside."""


def four_shards(folder: Path) -> Path:
    """Write shards with texts beside the caption, a uid that comes twice, and rows without an image."""
    for number in range(4):
        numbers = [3 * number, 3 * number + 2] if number != 2 else [0, 6, 8]
        samples = [Sample(n, extra={"more": [f"more {n}"]}) for n in numbers]
        write_ready(folder, f"{number:05d}", [*samples, failed(3 * number + 1)])
    return folder


SETTINGS = {
    "caption_columns": {"more": "more"},
    "on_duplicate_uid": "keep_first",
    "refuse": {"uids": [f"{11:032x}"]},
}


def verified(monkeypatch, *, ends_at: str | None = None) -> list[str]:
    """Note the shards that are verified from now on; end the run at one of them."""
    names = []
    account_for = parts.account_for

    def noting(shard, *args, **more):
        if shard.name == ends_at:
            raise EndedError
        names.append(shard.name)
        return account_for(shard, *args, **more)

    monkeypatch.setattr(parts, "account_for", noting)
    return names


def content(root: Path) -> dict[str, bytes]:
    """Return what lies at a root but manifests, which tell times."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def told(uri: str) -> dict:
    times = {"started_at", "wall_s", "cpu_s"}
    return read_manifest(uri).model_dump(exclude=times)


def test_a_run_that_is_ended_verifies_only_what_was_not_done(adopt, tmp_path, monkeypatch):
    ready = four_shards(tmp_path / "ready")
    with monkeypatch.context() as until_it_ends:
        before = verified(until_it_ends, ends_at="00002")
        with pytest.raises(EndedError):
            adopt(ready, **SETTINGS)
    assert before == ["00000", "00001"]
    kept = content(tmp_path / "lake")
    after = verified(monkeypatch)
    adopted = adopt(ready, **SETTINGS)
    assert after == ["00002", "00003"]
    assert adopted.manifest.summary["reused"] == 2
    found = content(tmp_path / "lake")
    assert kept.items() <= found.items()
    whole = adopt(ready, root=str(tmp_path / "at once"), **SETTINGS)
    assert whole.manifest.parts == adopted.manifest.parts
    assert content(tmp_path / "at once") == found


@pytest.mark.parametrize("shares_files", [True, False])
def test_the_bytes_are_those_of_one_thread(adopt, tmp_path, shares_files):
    ready = four_shards(tmp_path / "ready")
    pool = PicklingPool(shares_files=shares_files)
    here = adopt(ready, root=str(tmp_path / "here"), **SETTINGS)
    adopt(ready, root=str(tmp_path / "there"), pool=pool, **SETTINGS)
    assert here.reasons().count("duplicate_uid") == here.reasons().count("refused") == 1
    assert content(tmp_path / "there") == content(tmp_path / "here")
    for path in (tmp_path / "here").rglob("manifest.json"):
        uri = str(path.parent)
        assert told(uri) == told(uri.replace(str(tmp_path / "here"), str(tmp_path / "there")))
    assert len(pool.done) == 4 + 2  # two shards have rows that are left out
    adopt(ready, root=str(tmp_path / "there"), pool=pool, **SETTINGS)
    assert len(pool.done) == 4 + 2
    other = {**SETTINGS, "caption_columns": {"again": "more"}}
    adopt(ready, root=str(tmp_path / "there"), pool=pool, **other)
    assert len(pool.done) == 4 + 2 + 4  # the texts of each shard
    adopt(ready, root=str(tmp_path / "here"), **other)
    assert content(tmp_path / "there") == content(tmp_path / "here")


@POOLS
def test_all_shards_that_cannot_be_adopted_are_named_and_the_others_kept(adopt, tmp_path, pool):
    for number in range(4):
        extra = {} if number in (1, 2) else {"score": 1.0}
        write_ready(tmp_path / "ready", f"{number:05d}", [Sample(number, extra=extra)])
    with pytest.raises(DataError) as refusal:
        adopt(tmp_path / "ready", pool=pool, keep_columns=["score"])
    message = str(refusal.value)
    assert message.startswith(f"2 of 4 shards in {tmp_path / 'ready'} cannot be adopted: ")
    assert "00001.parquet has no column 'score'" in message
    assert "00002.parquet has no column 'score'" in message
    assert message.endswith("then run again: the others are kept")
    there = [str(path) for path in (tmp_path / "lake/acquire/parts").iterdir()]
    of_rows = [uri for uri in there if is_committed(uri) and Path(uri, "rows.parquet").exists()]
    assert len(of_rows) == 2
