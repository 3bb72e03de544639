"""Oracle: partitions and retries made by hand, of which it is known what became of every row."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made.fetched import commit_fetched, commit_retries, fill
from made.tables import committed_rows, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.parts import commit_account, part_identity
from neuclip.acquire.repair import run_repair
from neuclip.acquire.retries import REPAIRS, ROUND, find_attempts
from neuclip.acquire.run import plan_parts
from neuclip.foundation.errors import ConfigError, IntegrityError
from neuclip.foundation.progress import silent
from neuclip.stages.keys import stage_key
from neuclip.stages.manifest import read_manifest
from neuclip.stages.revisions import revise, revised_inputs
from neuclip.stages.workspace import scratch_folder

BASE = {
    1: "timeout",
    2: "http_404",
    5: "http_5xx",
    6: "dns",
    9: "truncated",
    11: "undecodable",
}
FIRST_ROUND = {5: "http_404", 6: "dns"}
"""What is still wrong after the first repair; 1 and 9 are there."""


def failing(reasons):
    return {uid(number): reason for number, reason in reasons.items()}.get


def rows(count):
    return [
        {
            "uid": uid(n),
            "url": f"http://a.example.org/{n}",
            "caption": f"pair {n}",
            "tag": f"tag {n}",
        }
        for n in range(count)
    ]


@pytest.fixture
def config(tmp_path):
    table = write_table(tmp_path / "t.parquet", rows(12))
    return AcquireConfig(table=table, partition_rows=4, keep_columns=["tag"])


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def base(config, root, acquire):
    commit_fetched(config, str(root), failed_for=failing(BASE))
    return acquire(config, root)


def outcome_rows(root, manifest):
    return {
        part: pq.read_table(root / "acquire" / "parts" / part / "rows.parquet").to_pylist()
        for part in manifest.parts
    }


def final_outcomes(root, manifest):
    """Return the reason of each uid, the last partition's word over those before it."""
    words = {}
    for found in outcome_rows(root, manifest).values():
        words |= {row["uid"]: row["reason"] for row in found}
    return words


def test_retries_stand_at_the_end_and_every_row_is_counted_once(config, root, base, acquire):
    retries = commit_retries(config, str(root), failed_for=failing(FIRST_ROUND))
    after = acquire(config, root, again=True)
    assert after.parts == [*base.parts, *(manifest.key for manifest in retries)]
    assert after.ledger.dropped == {"http_404": 2, "dns": 1, "undecodable": 1}
    assert (after.ledger.entered, after.ledger.out) == (12, 8)
    assert final_outcomes(root, after) == {
        uid(n): {2: "http_404", 5: "http_404", 6: "dns", 11: "undecodable"}.get(n)
        for n in range(12)
    }
    assert (after.summary["retries"], after.summary["repaired"]) == (3, 2)


def test_retries_have_their_kept_columns_and_their_place_in_the_listing(
    config, root, base, acquire
):
    commit_retries(config, str(root))
    after = acquire(config, root, again=True)
    stage = root / "acquire" / after.key
    for part, found in outcome_rows(root, after).items():
        columns = pq.read_table(stage / "columns" / f"{part}.parquet").to_pylist()
        assert columns == [
            {"uid": row["uid"], "tag": f"tag {int(row['uid'], 16)}"} for row in found
        ]
    listed = pq.read_table(stage / "partitions.parquet").to_pylist()
    assert [row["part"] for row in listed] == after.parts
    assert [(row["repairs"], row["round"]) for row in listed[3:]] == [
        (part, 1) for part in base.parts
    ]
    assert [row["first_row"] for row in listed] == [0, 4, 8, None, None, None]


def test_retries_have_the_texts_of_their_rows_and_those_of_a_later_column(
    config, root, base, acquire
):
    """No server is there: a download would leave every row failed."""
    commit_retries(config, str(root), failed_for=failing(FIRST_ROUND))
    before = acquire(config, root, again=True)
    told = committed_rows(f"{root}/acquire/{before.key}")
    assert len(told) == 12 + 4
    assert all(row["captions"] == {"alt": [f"pair {int(row['uid'], 16)}"]} for row in told)
    assert before.summary["texts"] == {"alt": {"texts": 12, "unusable": 0}}
    longer = [{**row, "long": [f"long {n}", "y" * 100_001]} for n, row in enumerate(rows(12))]
    write_table(Path(config.table), longer)
    after = acquire(config.model_copy(update={"caption_columns": {"words": "long"}}), root)
    assert after.parts == before.parts
    assert (after.ledger, after.summary["repaired"]) == (before.ledger, before.summary["repaired"])
    for row in committed_rows(f"{root}/acquire/{after.key}"):
        number = int(row["uid"], 16)
        assert row["captions"] == {"alt": [f"pair {number}"], "words": [f"long {number}"]}
        assert row["unusable"] == {"words": 1}
    assert after.summary["texts"]["words"] == {"texts": 24, "unusable": 12}


def test_a_second_round_follows_the_first(config, root, base, acquire):
    first = commit_retries(config, str(root), failed_for=failing(FIRST_ROUND))
    second = commit_retries(config, str(root))
    after = acquire(config, root, again=True)
    assert after.parts == [*base.parts, *(m.key for m in [*first, *second])]
    assert len(second) == 1  # 6 alone may be tried again
    assert after.ledger.dropped == {"http_404": 2, "undecodable": 1}


def test_rows_appended_after_a_repair_keep_it(config, root, base, acquire):
    """The retry of the partition that was not full stays with it."""
    commit_retries(config, str(root), failed_for=failing(FIRST_ROUND))
    repaired = acquire(config, root, again=True)
    write_table(Path(config.table), rows(15))
    commit_fetched(config, str(root))
    grown = acquire(config, root)
    assert grown.parts[:3] == base.parts
    assert grown.parts[4:] == repaired.parts[3:]
    assert (grown.ledger.entered, grown.ledger.out) == (15, repaired.ledger.out + 3)


def test_a_partition_that_is_fetched_again_as_a_whole_has_no_retries(config, root, base, acquire):
    commit_retries(config, str(root))
    with scratch_folder(str(root)) as scratch:
        parts = plan_parts(config, root=str(root), scratch=scratch, progress=silent, force=False)
        (partition,) = [part for part in parts.planned if part.key == base.parts[0]]
        account = fill(partition.rows(), scratch / "again", failing({1: "http_404"}))
        identity = part_identity(config, partition.key, {}, root=str(root))
        commit_account(identity, account, force=True)
    after = acquire(config, root, again=True)
    assert len(after.parts) == 5
    assert final_outcomes(root, after)[uid(1)] == "http_404"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([0], "success"), ([2], "http_404"), ([99], "not before"), ([1, 1], "success")],
    ids=["success again", "failed for good", "never planned", "twice"],
)
def test_a_uid_with_two_outcomes_that_count_is_refused(config, root, base, acquire, numbers, words):
    with scratch_folder(str(root)) as scratch:
        (attempts,) = find_attempts(str(root / "acquire"), [part_manifest(root, base.parts[0])])
        planned = [{"uid": uid(n), "url": "http://a/1", "reason": None} for n in numbers]
        account = fill(planned, scratch / "made", lambda _: None)
        inputs = {REPAIRS: attempts.base.key, ROUND: "1"}
        commit_account(part_identity(config, attempts.next_key(), inputs, root=str(root)), account)
    with pytest.raises(IntegrityError) as error:
        acquire(config, root, again=True)
    assert words in str(error.value)
    assert uid(numbers[0]) in str(error.value)


def part_manifest(root, part):
    return read_manifest(str(root / "acquire" / "parts" / part))


def repair(config, root, stage):
    with scratch_folder(str(root)) as scratch:
        return run_repair(config, stage, root=str(root), scratch=scratch, progress=silent)


def test_a_repair_of_what_failed_for_good_does_nothing(config, root, acquire):
    commit_fetched(config, str(root), failed_for=failing({2: "http_404", 3: "undecodable"}))
    done = repair(config, root, acquire(config, root))
    assert (done.tried, done.retries) == (0, [])
    assert not (root / "acquire" / "revisions").exists()


def test_a_repair_of_rows_that_were_never_fetched_is_refused(config, root, base):
    write_table(Path(config.table), rows(13))
    with pytest.raises(ConfigError, match="1 of 4 partitions"):
        repair(config, root, base)


def test_retries_of_a_repair_that_was_ended_are_taken_and_nothing_is_fetched(
    config, root, base, acquire
):
    """No server is there: a download would leave every row failed."""
    retries = commit_retries(config, str(root), failed_for=failing(FIRST_ROUND))
    done = repair(config, root, base)
    assert (done.tried, done.fetched) == (0, 2)
    assert done.retries == sorted(manifest.key for manifest in retries)
    assert (root / "acquire" / "revisions" / f"{base.key}.json").exists()


def test_a_revision_changes_the_key_and_another_changes_it_again(tmp_path):
    def key_of(inputs):
        return stage_key("acquire", 1, {}, inputs)

    uri, inputs = str(tmp_path), {"table": "x"}
    keys = [key_of(inputs)]
    assert revised_inputs(uri, inputs, key_of) == inputs
    revise(uri, "of another stage", "repair", {"retries": ["a"]})
    assert revised_inputs(uri, inputs, key_of) == inputs
    for kind, what in (("repair", {"retries": ["a"]}), ("takedown", {"record": "0001.json"})):
        revise(uri, keys[-1], kind, what)
        revise(uri, keys[-1], kind, {"a later word": "does not count"})
        found = revised_inputs(uri, inputs, key_of)
        assert found["table"] == "x"
        keys.append(key_of(found))
    assert len(set(keys)) == 3


def test_a_revision_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "revisions").mkdir()
    (tmp_path / "revisions" / "k.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"k\.json"):
        revised_inputs(str(tmp_path), {"table": "x"}, lambda inputs: "k")
