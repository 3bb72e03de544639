"""Oracles: the draws of tests/index/test_draws.py on tables made by hand; damage put where builders could put it."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import some_pairs
from made.indexed import commit_index, count_samples, some_clusters, some_features
from made.packed import pack

from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.index.draws import draw_spread, draw_stratified, draw_uniform
from neuclip.index.sample_index import STATISTICS, SampleIndex
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("plain"), [some_pairs(60)]).index


@pytest.fixture(scope="module")
def count(plain):
    return count_samples(plain)


@pytest.fixture(scope="module")
def full(plain, count, tmp_path_factory):
    rows = some_features(count)[::-1]  # in another order than that of the ids
    root = tmp_path_factory.mktemp("full")
    return commit_index(plain, root, features=rows, clusters=some_clusters(count)[::-1])


def test_uniform_needs_nothing_but_samples(plain, count):
    index = SampleIndex(plain)
    assert index.count == count > 40
    expected = draw_uniform(np.arange(count), 10, seed=4)
    assert index.prototypes(10, "uniform", 4).tolist() == expected.tolist()
    assert sorted(index.prototypes(count)) == list(range(count))


def test_strata_are_those_of_the_table(full, count):
    ids, clusters = np.arange(count), np.array([row[2] for row in some_clusters(count)])
    expected = draw_stratified(ids, clusters, 17, seed=5)
    assert SampleIndex(full).prototypes(17, "stratified", 5).tolist() == expected.tolist()


@pytest.mark.parametrize("at_once", [1, 7, 8192])
def test_distances_are_taken_in_both_features_each_of_unit_length(
    full, count, monkeypatch, at_once
):
    monkeypatch.setattr("neuclip.index.sample_index._ROWS_AT_ONCE", at_once)
    sides = np.array([row[2:] for row in some_features(count)])
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    rows = sides.reshape(count, -1).astype(np.float32)
    expected = draw_spread(np.arange(count), rows, 12, seed=6)
    assert SampleIndex(full).prototypes(12, "kmeans++", 6).tolist() == expected.tolist()


def test_distances_are_taken_among_some_candidates_of_many(full, count, monkeypatch):
    monkeypatch.setattr("neuclip.index.sample_index._MOST_CANDIDATES", 20)
    drawn = SampleIndex(full).prototypes(5, "kmeans++", 6)
    assert set(drawn) <= set(draw_uniform(np.arange(count), 20, seed=6))
    assert len(set(SampleIndex(full).prototypes(8, "kmeans++", 6))) == 8  # 4 m are more


def test_a_view_shows_the_tables_and_nothing_can_be_written(full):
    with SampleIndex(full).connect() as connection:
        assert connection.sql("SELECT count(*) FROM clusters").fetchall()[0][0] > 0
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            connection.execute("DELETE FROM samples")


@pytest.mark.parametrize("m", [0, 61])
@pytest.mark.parametrize("strategy", ["uniform", "stratified", "kmeans++"])
def test_more_than_there_are_is_refused(full, count, strategy, m):
    for ask in (SampleIndex(full).prototypes, SampleIndex(full).require):
        with pytest.raises(ConfigError, match=rf"{m} prototypes cannot be drawn from {count} samp"):
            ask(m, strategy)


@pytest.mark.parametrize(
    ("strategy", "table"), [("stratified", "clusters"), ("kmeans++", "features")]
)
def test_missing_tables_are_named_when_they_are_needed(plain, strategy, table):
    index = SampleIndex(plain)
    index.require(5, "uniform")
    with pytest.raises(DataError, match=rf"need the table {table} of the index.*has none"):
        index.require(5, strategy)


def test_features_of_two_models_are_no_answer(plain, count, tmp_path):
    rows = some_features(count) + some_features(count, model="other")
    uri = commit_index(plain, tmp_path, features=rows)
    with pytest.raises(DataError, match=r"features of 2 models \(m, other\)"):
        SampleIndex(uri).require(5, "kmeans++")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({2: [1.0, 2.0]}, "of sample 9 has 2 numbers, others have 6"),
        ({3: None}, "of sample 9 has 0 numbers, others have 6"),
        ({2: [0.0] * 6}, "of sample 9 is zero or not finite"),
        ({3: [1.0] * 5 + [float("nan")]}, "of sample 9 is zero or not finite"),
        ({0: 10}, "are not each of another of the"),
        ({0: 10_000}, "are not each of another of the"),
        ({0: -1}, "are not each of another of the"),
    ],
)
def test_damaged_features_are_named(plain, count, tmp_path, change, says):
    rows = some_features(count)
    rows[9] = tuple(change.get(place, value) for place, value in enumerate(rows[9]))
    uri = commit_index(plain, tmp_path, features=rows)
    with pytest.raises(DataError, match=says):
        SampleIndex(uri).require(5, "kmeans++")


def test_another_width_from_some_row_on_is_named(plain, count, tmp_path, monkeypatch):
    monkeypatch.setattr("neuclip.index.sample_index._ROWS_AT_ONCE", 10)
    rows = some_features(count)[:10] + some_features(count, width=5)[10:]
    uri = commit_index(plain, tmp_path, features=rows)
    with pytest.raises(DataError, match=r"of sample \d+ have 1[02] numbers, of others 1[02]"):
        SampleIndex(uri).require(5, "kmeans++")


def test_samples_without_a_cluster_are_told_of_and_not_drawn(plain, count, tmp_path, caplog):
    uri = commit_index(plain, tmp_path, clusters=some_clusters(count)[:30])
    drawn = SampleIndex(uri).prototypes(30, "stratified")
    assert sorted(drawn) == list(range(30))
    assert f"30 of {count} samples have clusters" in caplog.text


def test_an_unknown_strategy_is_refused(plain):
    with pytest.raises(ConfigError, match=r"'random' is unknown; known are uniform, strat"):
        SampleIndex(plain).prototypes(5, "random")


def test_a_truncated_index_is_refused(plain, count, tmp_path):
    uri = commit_index(plain, tmp_path, clusters=some_clusters(count))
    path = tmp_path / "index" / "made" / "index.duckdb"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"index.duckdb has 1000 bytes"):
        SampleIndex(uri)


def commit_run(root, *, index="made", has_signals=True):
    def fill(workspace):
        table = pa.table({"sample_id": [0, 1, 2], "loss": pa.array([0.5, None, 7.0])})
        pq.write_table(table, workspace.output / (STATISTICS if has_signals else "other.parquet"))
        return Outcome(ledger=make_ledger(1, 1, {}))

    identity = StageIdentity("train", 1, "run", {}, {"index": index}, str(root))
    commit_stage(identity, fill)
    return identity.uri


def test_signals_stand_beside_the_samples(full, tmp_path):
    root = tmp_path / "it's"  # a quote in a path
    index = SampleIndex(full).with_statistics(commit_run(root))
    with index.connect() as connection:
        found = connection.sql(
            "SELECT uid IS NOT NULL, loss FROM sample_statistics JOIN samples USING (sample_id) ORDER BY loss DESC"
        ).fetchall()
    assert found == [(True, 7.0), (True, 0.5), (True, None)]


def test_signals_of_no_run_or_of_another_index_are_refused(full, tmp_path):
    with pytest.raises(
        DataError, match=r"no sample_statistics.parquet; train with train.sample_statistics: true"
    ):
        SampleIndex(full).with_statistics(commit_run(tmp_path / "a", has_signals=False))
    with pytest.raises(DataError, match="elsewhere, which index made does not begin with"):
        SampleIndex(full).with_statistics(commit_run(tmp_path / "b", index="elsewhere"))


def test_signals_stay_of_use_when_parts_are_added_and_only_then(plain, tmp_path):
    grown = SampleIndex(commit_index(plain, tmp_path, key="grown", parts=("a", "b", "c")))
    for key, parts in (("first", ("a", "b")), ("other", ("b", "a"))):
        commit_index(plain, tmp_path, key=key, parts=parts)
    with grown.with_statistics(commit_run(tmp_path, index="first")).connect() as connection:
        assert connection.sql("SELECT count(*) FROM sample_statistics").fetchall() == [(3,)]
    with pytest.raises(DataError, match="other, which index grown does not begin with"):
        grown.with_statistics(commit_run(tmp_path / "b", index="other"))
