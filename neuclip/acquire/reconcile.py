"""One partition's account: every planned row gets one outcome, and rows, tar and counts must agree."""

import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquire.download import Shard
from neuclip.acquire.fetch_log import FetchRecord
from neuclip.acquired.partitions import IMAGES, ROWS
from neuclip.acquired.reasons import NETWORK_REASONS, reason_of
from neuclip.acquired.refusals import hosts_above
from neuclip.acquired.rows import Messages, write_rows
from neuclip.foundation.errors import IntegrityError
from neuclip.stages.ledger import Ledger
from neuclip.table.plan import Partition

_DETAIL_CHARACTERS = 200
_HOSTS_NAMED = 3
_SIZES = ("width", "height", "original_width", "original_height")

Record = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """What became of a partition's rows; `folder` holds rows.parquet and images.tar."""

    folder: Path
    ledger: Ledger
    messages: Messages
    failed_hosts: dict[str, int]
    """The hosts with most failures, and how many."""

    def failed_by_network(self) -> float:
        """Return the share of rows that a network that is down would explain."""
        failed = sum(self.ledger.dropped.get(reason, 0) for reason in NETWORK_REASONS)
        return failed / self.ledger.entered


def reconcile(partition: Partition, shard: Shard | None, *, folder: Path) -> Account:
    """Write the outcome of every row of a partition to rows.parquet and move its images beside it.

    Args:
        shard: what img2dataset left; None if no row of the partition was to be fetched.
    Raises: IntegrityError: if rows, tar and counts do not say the same.
    """
    folder.mkdir(parents=True)
    fetched: dict[str, Record] = {}
    members: dict[str, tarfile.TarInfo] = {}
    if shard is None:
        tarfile.open(folder / IMAGES, "w").close()
    else:
        fetched, members = _checked(partition, shard)
        shard.tar.replace(folder / IMAGES)
    fetch_records = {} if shard is None else shard.fetch_records
    rows = [_outcome(row, fetched, members, fetch_records) for row in partition.rows()]
    ledger, messages = write_rows(rows, folder / ROWS)
    return Account(folder, ledger, messages, _failed_hosts(rows))


def _checked(
    partition: Partition, shard: Shard
) -> tuple[dict[str, Record], dict[str, tarfile.TarInfo]]:
    """Return img2dataset's rows by uid and its image members by key, if they fit each other and the plan."""
    fetched = pq.read_table(shard.parquet).to_pylist()
    members = _image_members(partition, shard)
    by_uid = {row["uid"]: row for row in fetched}
    planned = {row["uid"] for row in partition.rows() if row["reason"] is None}
    stats = shard.stats() or {}
    succeeded = {row["key"] for row in fetched if row["status"] == "success"}
    numbers = {
        "rows planned": len(planned),
        "rows in its table": len(fetched),
        "planned uids in its table": len(planned & by_uid.keys()),
        "rows in its counts": stats.get("count"),
    }
    images = {
        "successes in its table": len(succeeded),
        "images in its tar": len(members),
        "successes with an image": len(succeeded & members.keys()),
        "successes in its counts": stats.get("successes"),
    }
    if len(set(numbers.values())) > 1 or len(set(images.values())) > 1:
        said = ", ".join(f"{count} {what}" for what, count in {**numbers, **images}.items())
        raise IntegrityError(
            f"img2dataset's account of partition {partition.key} does not add up: {said}; "
            "the partition was not committed, run again (is the disk full?)"
        )
    return by_uid, members


def _image_members(partition: Partition, shard: Shard) -> dict[str, tarfile.TarInfo]:
    try:
        with tarfile.open(shard.tar) as tar:
            return {
                member.name.split(".", 1)[0]: member
                for member in tar
                if not member.name.endswith(".json")
            }
    except tarfile.TarError as error:
        raise IntegrityError(
            f"the tar that img2dataset wrote for partition {partition.key} is broken: {error}; "
            "the partition was not committed, run again (is the disk full?)"
        ) from error


def _outcome(
    row: Record,
    fetched: dict[str, Record],
    members: dict[str, tarfile.TarInfo],
    fetch_records: Mapping[str, FetchRecord],
) -> Record:
    outcome: Record = {name: row[name] for name in ("uid", "url")}
    outcome["status"] = "failed"
    if row["reason"] is not None:
        return {**outcome, "reason": row["reason"]}
    found, record = fetched[row["uid"]], fetch_records.get(row["uid"])
    if found["status"] != "success":
        if record is not None and record.reason is not None:
            return {**outcome, "reason": record.reason, "detail": record.detail}
        message = found["error_message"]
        detail = (message or "")[:_DETAIL_CHARACTERS]
        return {**outcome, "reason": reason_of(found["status"], message), "detail": detail}
    if record is None or record.reason is not None:
        raise IntegrityError(
            f"img2dataset has a picture of {row['uid']} ({row['url']}) that the egress guard did not hand on; "
            "the partition was not committed: find out how it was fetched before you run again"
        )
    member = members[found["key"]]
    return {
        **outcome,
        "status": "success",
        "reason": None,
        **{name: found[name] for name in _SIZES},
        "sha256": record.sha256,
        "member": member.name,
        "offset": member.offset_data,
        "size": member.size,
    }


def _failed_hosts(rows: list[Record]) -> dict[str, int]:
    failed = Counter(
        host for row in rows if row["reason"] and row["url"] for host in hosts_above(row["url"])[:1]
    )
    return dict(failed.most_common(_HOSTS_NAMED))
