"""A URL table whose partitions are committed with made pictures, as a download would have left them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made.acquired import png

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.parts import commit_account, part_identity
from neuclip.acquire.reconcile import Account
from neuclip.acquire.retries import REPAIRS, ROUND, find_attempts, outcomes
from neuclip.acquire.run import plan_parts
from neuclip.acquired.rows import ROWS_SCHEMA
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.progress import silent
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import Manifest
from neuclip.stages.workspace import scratch_folder
from neuclip.storage.uris import join

FailedFor = Callable[[str], str | None]
"""Tells of a uid why it failed, None if its picture is there."""


def commit_fetched(
    config: AcquireConfig, root: str, *, failed_for: FailedFor = lambda uid: None
) -> list[Manifest]:
    """Commit all partitions of a table that are not committed yet."""
    manifests = []
    with scratch_folder(root) as scratch:
        parts = plan_parts(config, root=root, scratch=scratch, progress=silent, force=False)
        for partition in parts.missing():
            folder = scratch / partition.key
            account = fill(partition.rows(), folder, failed_for)
            identity = part_identity(config, partition.key, {"rows": "made"}, root=root)
            manifests.append(commit_account(identity, account))
    return manifests


def fill(planned: list[dict], folder: Path, failed_for: FailedFor) -> Account:
    """Write rows.parquet and images.tar, whose members are named as img2dataset names them."""
    folder.mkdir(parents=True)
    rows, dropped = [], {}
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number, row in enumerate(planned):
            outcome = dict.fromkeys(ROWS_SCHEMA.names)
            outcome |= {name: row[name] for name in ("uid", "url")}
            reason = row["reason"] or failed_for(row["uid"])
            if reason is not None:
                dropped[reason] = dropped.get(reason, 0) + 1
                rows.append(
                    {**outcome, "status": "failed", "reason": reason, "detail": f"was {reason}"}
                )
                continue
            content = picture_of(row["uid"])
            record = json.dumps({"uid": row["uid"], "url": row["url"]}).encode()
            member = f"{number:09d}.png"
            offset = _add(tar, member, content)
            _add(tar, f"{number:09d}.json", record)
            sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 24)
            place = {
                "member": member,
                "offset": offset,
                "size": len(content),
                "sha256": row["uid"] * 2,
            }
            rows.append({**outcome, **sizes, **place, "status": "success"})
    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS_SCHEMA), folder / "rows.parquet")
    out = len(rows) - sum(dropped.values())
    return Account(
        folder=folder, ledger=make_ledger(len(rows), out, dropped), messages={}, failed_hosts={}
    )


def picture_of(uid: str) -> bytes:
    return png(int(uid[-6:], 16), (24, 24))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(content))
    return offset


def commit_retries(
    config: AcquireConfig, root: str, *, failed_for: FailedFor = lambda uid: None
) -> list[Manifest]:
    """Commit a next retry for each partition with rows that may be tried again, as a repair would."""
    acquire_uri = join(root, "acquire")
    manifests = []
    with scratch_folder(root) as scratch:
        parts = plan_parts(config, root=root, scratch=scratch, progress=silent, force=False)
        assert not parts.missing()
        all_attempts = find_attempts(acquire_uri, [parts.committed[p.key] for p in parts.planned])
        for partition, attempts in zip(parts.planned, all_attempts, strict=True):
            words = outcomes(acquire_uri, attempts)
            rows = [row for row in partition.rows() if words[row["uid"]] in TRANSIENT_REASONS]
            if rows:
                key = attempts.next_key()
                inputs = {REPAIRS: attempts.base.key, ROUND: str(attempts.next_round)}
                account = fill(rows, scratch / key, failed_for)
                manifests.append(
                    commit_account(part_identity(config, key, inputs, root=root), account)
                )
    return manifests
