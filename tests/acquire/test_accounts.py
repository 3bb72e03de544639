"""Oracle: shards made by hand, whole or with one thing wrong, and the account each must give."""

import io
import json
import sys
import tarfile
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.tables import plan_table, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.download import Watch, shard_of
from neuclip.acquire.fetch_log import FetchLog, FetchRecord
from neuclip.acquire.parts import Parts
from neuclip.acquire.reconcile import reconcile
from neuclip.acquired.reasons import REASONS, reason_of
from neuclip.foundation.children import run_child
from neuclip.foundation.errors import ChildError, DataError, IntegrityError
from neuclip.foundation.progress import silent
from neuclip.stages.manifest import is_committed

REFUSED = "<urlopen error [Errno 111] Connection refused>"
KEYS = ["000000000", "000000001", "000000002"]


def fetched_row(number, *, error=None):
    return {
        "uid": uid(number),
        "url": f"http://a/{number}",
        "key": KEYS[number],
        "status": "failed_to_download" if error else "success",
        "error_message": error,
        **dict.fromkeys(("width", "height", "original_width", "original_height"), 8),
        "sha256": "00",
    }


def write_shard(folder, rows, *, images, successes):
    folder.mkdir(parents=True)
    shard = shard_of(folder, 0)
    pq.write_table(pa.Table.from_pylist(rows), shard.parquet)
    with tarfile.open(shard.tar, "w") as tar:
        for key in images:
            for suffix, content in (("jpg", f"image {key}".encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    stats = {"count": len(rows), "successes": successes}
    shard.stats_path.write_text(json.dumps(stats), encoding="utf-8")
    fetched = [row for row in rows if row["status"] == "success"]
    fetch_records = {
        row["uid"]: FetchRecord(None, None, f"sha of {row['uid']}", "a") for row in fetched
    }
    return replace(shard, fetch_records=fetch_records)


@pytest.fixture
def config(tmp_path):
    rows = [{"uid": uid(n), "url": f"http://a/{n}", "caption": str(n)} for n in range(3)]
    table = write_table(tmp_path / "t.parquet", rows)
    return AcquireConfig(table=table, max_failed_share=0.5)


@pytest.fixture
def partition(config, tmp_path):
    return plan_table(config, tmp_path / "plan")[0]


def test_a_whole_shard_is_accounted_in_the_order_of_the_table(partition, tmp_path):
    rows = [fetched_row(2), fetched_row(0), fetched_row(1, error="HTTP Error 404: Not Found")]
    shard = write_shard(tmp_path / "raw", rows, images=[KEYS[2], KEYS[0]], successes=2)
    account = reconcile(partition, shard, folder=tmp_path / "part")
    outcomes = pq.read_table(account.folder / "rows.parquet").to_pylist()
    assert [(r["uid"], r["reason"]) for r in outcomes] == [
        (uid(0), None),
        (uid(1), "http_404"),
        (uid(2), None),
    ]
    tar = (account.folder / "images.tar").read_bytes()
    for row in (outcomes[0], outcomes[2]):
        key = row["member"].removesuffix(".jpg")
        assert tar[row["offset"] : row["offset"] + row["size"]] == f"image {key}".encode()
    assert account.ledger.dropped == {"http_404": 1}
    assert account.failed_hosts == {"a": 1}


def test_the_guards_word_counts_over_the_downloaders(partition, tmp_path):
    rows = [fetched_row(0), fetched_row(1, error="HTTP Error 403: dns"), fetched_row(2)]
    shard = write_shard(tmp_path / "raw", rows, images=[KEYS[0], KEYS[2]], successes=2)
    refused = FetchRecord("dns", "there is no a", None, "a")
    shard = replace(shard, fetch_records={**shard.fetch_records, uid(1): refused})
    account = reconcile(partition, shard, folder=tmp_path / "part")
    outcomes = pq.read_table(account.folder / "rows.parquet").to_pylist()
    assert [(r["reason"], r["detail"]) for r in outcomes] == [
        (None, None),
        ("dns", "there is no a"),
        (None, None),
    ]
    assert outcomes[0]["sha256"] == f"sha of {uid(0)}"


def test_a_picture_that_did_not_come_through_the_guard_is_refused(partition, tmp_path):
    rows = [fetched_row(n) for n in range(3)]
    shard = write_shard(tmp_path / "raw", rows, images=KEYS, successes=3)
    fetch_records = dict(shard.fetch_records)
    del fetch_records[uid(1)]
    with pytest.raises(IntegrityError, match=uid(1)):
        reconcile(partition, replace(shard, fetch_records=fetch_records), folder=tmp_path / "part")


@pytest.mark.parametrize(
    ("rows", "images", "successes", "words"),
    [
        ([0, 1], KEYS[:2], 2, ["3 rows planned", "2 rows in its table"]),
        ([0, 1, 2], KEYS[:2], 3, ["3 successes in its table", "2 images in its tar"]),
        ([0, 1, 2], KEYS, 2, ["3 images in its tar", "2 successes in its counts"]),
        ([0, 1, 1], [KEYS[0], KEYS[1]], 2, ["3 rows in its table", "2 planned uids"]),
    ],
    ids=["row lost", "image lost", "count wrong", "row twice"],
)
def test_what_does_not_add_up_is_refused(partition, tmp_path, rows, images, successes, words):
    fetched = [fetched_row(number) for number in rows]
    shard = write_shard(tmp_path / "raw", fetched, images=images, successes=successes)
    with pytest.raises(IntegrityError) as error:
        reconcile(partition, shard, folder=tmp_path / "part")
    assert all(word in str(error.value) for word in [*words, partition.key])


def test_a_tar_cut_short_is_refused(partition, tmp_path):
    rows = [fetched_row(n) for n in range(3)]
    shard = write_shard(tmp_path / "raw", rows, images=KEYS, successes=3)
    shard.tar.write_bytes(shard.tar.read_bytes()[:700])
    with pytest.raises(IntegrityError, match="is broken"):
        reconcile(partition, shard, folder=tmp_path / "part")


def test_a_partition_that_the_network_failed_waits(config, partition, tmp_path):
    """Oracle: two of three refused connections, above the limit of one half."""
    rows = [fetched_row(0), fetched_row(1, error=REFUSED), fetched_row(2, error=REFUSED)]
    shard = write_shard(tmp_path / "raw", rows, images=KEYS[:1], successes=1)
    root = tmp_path / "root"
    parts = Parts(
        [partition],
        config,
        root=str(root),
        folder=tmp_path / "parts",
        progress=silent,
        force=False,
    )
    parts.finish(partition, shard)
    uri = str(root / "acquire" / "parts" / partition.key)
    assert parts.ledgers[partition.key].dropped == {"connection": 2}
    assert not is_committed(uri)
    parts.commit_held()
    assert is_committed(uri)


def test_too_many_failures_fail_the_stage_with_the_cause(acquire, tmp_path):
    """Oracle: a table of which no row can be fetched, so that nothing is downloaded."""
    rows = [{"url": "ftp://a/1", "caption": str(n)} for n in range(3)]
    table = write_table(tmp_path / "t.parquet", [*rows, {"url": None, "caption": "3"}])
    with pytest.raises(DataError) as error:
        acquire(AcquireConfig(table=table), tmp_path / "root")
    for word in ("4 of 4", "100%", "0.8", "3 bad_scheme, 1 no_url", "acquire.url_column"):
        assert word in str(error.value)
    manifest = acquire(AcquireConfig(table=table, max_failed_share=1), tmp_path / "root")
    assert (manifest.ledger.entered, manifest.ledger.out) == (4, 0)


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", "http_404"),
        ("failed_to_download", "HTTP Error 451: Unavailable For Legal Reasons", "http_4xx"),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", "http_5xx"),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", "dns"),
        (
            "failed_to_download",
            "<urlopen error [Errno -3] Temporary failure in name resolution>",
            "dns",
        ),
        ("failed_to_download", REFUSED, "connection"),
        ("failed_to_download", "Remote end closed connection without response", "connection"),
        ("failed_to_download", "<urlopen error timed out>", "timeout"),
        ("failed_to_download", "The read operation timed out", "timeout"),
        ("failed_to_download", "IncompleteRead(10 bytes read, 20 more expected)", "truncated"),
        ("failed_to_download", "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] ...>", "tls"),
        ("failed_to_download", "no host given", "bad_url"),
        ("failed_to_download", None, "other_download"),
        ("failed_to_resize", "Image decoding error", "undecodable"),
        ("failed_to_resize", "something timed out", "other_resize"),
    ],
)
def test_messages_become_reasons(status, message, reason):
    """Oracle: messages that urllib and OpenCV were seen to give."""
    assert reason_of(status, message) == reason
    assert reason in REASONS


def test_fetch_records_are_read_while_they_are_written(tmp_path):
    """Oracle: a journal written by hand, cut at every byte."""
    lines = [
        {"uid": uid(0), "reason": None, "detail": None, "sha256": "00", "host": "a", "hops": 0},
        {"uid": uid(1), "reason": "dns", "detail": "no b", "sha256": None, "host": "b", "hops": 0},
    ]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    journal = tmp_path / "journal.jsonl"
    log = FetchLog(journal)
    counts = [log.read()]
    for end in range(len(whole) + 1):
        journal.write_bytes(whole[:end])
        counts.append(log.read())
    assert (counts[0], counts[-1]) == (0, 2)
    assert counts == sorted(counts)
    assert log.reasons() == {None: 1, "dns": 1}
    assert log.take([uid(1), uid(7)]) == {uid(1): FetchRecord("dns", "no b", None, "b")}
    assert log.reasons() == {None: 1}


def watch_of(partition, config, folder, **limits):
    return Watch(
        {shard_of(folder, 0): partition},
        config.model_copy(update=limits),
        fetch_log=FetchLog(folder / "journal.jsonl"),
        guard=None,
        on_shard=lambda partition, shard: None,
        on_fetched=lambda reasons: None,
        start_up_s=0.2,
    )


SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
HOLD = [sys.executable, "-c", "import time; held = b'x' * 200_000_000; time.sleep(60)"]


@pytest.mark.parametrize(
    ("command", "limits", "words"),
    [
        (SLEEP, {"stall_s": 0.3}, r"nothing for 0\.3 s with 1 partitions"),
        (SLEEP, {"longest_s": 0.3}, r"longer than acquire\.longest_s=0\.3 with 1 partitions"),
        (HOLD, {"worker_memory_mib": 100}, r"grew to \d+ MiB.*worker_memory_mib=100"),
    ],
    ids=["stalls", "takes too long", "grows too large"],
)
def test_a_download_past_a_limit_is_ended(config, partition, tmp_path, command, limits, words):
    """Oracle: a child that does only that."""
    watch = watch_of(partition, config, tmp_path, **limits)
    started = time.monotonic()
    with pytest.raises(ChildError, match=words):
        run_child(
            command,
            name="child",
            log_path=tmp_path / "log",
            on_start=watch.begin,
            on_tick=watch.tick,
            tick_s=0.1,
        )
    assert time.monotonic() - started < 20
