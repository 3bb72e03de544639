"""Oracle: a journal and shards made by hand, finished in an order that a download may have too."""

import json

from made.tables import plan_table, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.download import Watch, shard_of
from neuclip.acquire.fetch_log import FetchLog


def record(number):
    said = {"uid": uid(number), "reason": "http_404", "detail": "gone", "sha256": None, "host": "a"}
    return json.dumps(said) + "\n"


def test_a_repeated_uid_leaves_the_record_to_the_row_that_was_fetched(tmp_path):
    numbers = [0, 1, 2, 0]
    rows = [{"uid": uid(n), "url": f"http://a/{n}", "caption": "x"} for n in numbers]
    config = AcquireConfig(
        table=write_table(tmp_path / "t.parquet", rows),
        on_duplicate_uid="keep_first",
        partition_rows=2,
    )
    first, second = plan_table(config, tmp_path / "plan")
    (tmp_path / "journal.jsonl").write_text("".join(map(record, range(3))), encoding="utf-8")
    taken = {}
    shards = {shard_of(tmp_path, 0): first, shard_of(tmp_path, 1): second}
    watch = Watch(
        shards,
        config,
        fetch_log=FetchLog(tmp_path / "journal.jsonl"),
        guard=None,
        on_shard=lambda partition, shard: taken.update(
            {partition.key: sorted(shard.fetch_records)}
        ),
        on_fetched=lambda reasons: None,
    )
    for shard in reversed(shards):
        shard.stats_path.write_text("{}", encoding="utf-8")
        watch.tick()
    assert taken == {second.key: [uid(2)], first.key: [uid(0), uid(1)]}
