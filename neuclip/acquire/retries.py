"""Retries: partitions that hold failed rows of another partition again, and the final outcome of each row."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquired.partitions import ROWS
from neuclip.acquired.reasons import REPEATS
from neuclip.acquired.refusals import TAKEN_DOWN
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.errors import IntegrityError
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import Ledger, add_ledgers, make_ledger
from neuclip.stages.manifest import PARTS, Manifest, is_committed, read_manifest, verify_sizes
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

REPAIRS = "repairs"
"""Input of a retry's manifest: the key of the partition whose rows it holds again."""
ROUND = "round"
"""Input of a retry's manifest: how often these rows have been fetched again, from 1 on."""

_MAY_FOLLOW = TRANSIENT_REASONS | {TAKEN_DOWN}

Record = dict[str, Any]


@dataclass(frozen=True)
class Attempts:
    """A committed partition and its retries, first round first."""

    base: Manifest
    retries: list[Manifest]

    @property
    def next_round(self) -> int:
        """The round that comes next."""
        return len(self.retries) + 1

    def next_key(self) -> str:
        """Return the key of the next retry.

        The moment of the base's commit is part of it: a base that was fetched again as a whole has no retries.
        """
        return digest(
            {"repairs": self.base.key, "committed": self.base.started_at, "round": self.next_round}
        )


def find_attempts(acquire_uri: str, bases: Sequence[Manifest]) -> list[Attempts]:
    """Return each partition with the retries that were committed at its root.

    Raises: IntegrityError: if a retry has lost a file.
    """
    there = set(list_folders(join(acquire_uri, PARTS)))
    all_attempts: list[Attempts] = []
    for base in bases:
        attempts = Attempts(base, [])
        while (key := attempts.next_key()) in there:
            uri = join(acquire_uri, PARTS, key)
            if not is_committed(uri):
                break
            retry = read_manifest(uri)
            verify_sizes(uri, retry)
            attempts.retries.append(retry)
        all_attempts.append(attempts)
    return all_attempts


def in_rounds(all_attempts: Sequence[Attempts]) -> Iterator[tuple[int, Attempts, Manifest]]:
    """Yield round, attempts and retry: all of the first round, then all of the second."""
    rounds = max((len(attempts.retries) for attempts in all_attempts), default=0)
    for number in range(rounds):
        for attempts in all_attempts:
            if number < len(attempts.retries):
                yield number + 1, attempts, attempts.retries[number]


def outcomes(acquire_uri: str, attempts: Attempts) -> dict[str, str | None]:
    """Return the final outcome of every uid but repeats: the reason it failed for, None if it is there.

    Raises: IntegrityError: if a uid has more than one outcome that counts.
    """
    found: dict[str, str | None] = {}
    for row in _read(acquire_uri, attempts.base.key):
        if row["reason"] in REPEATS:
            continue
        if row["uid"] in found:
            raise _twice(row["uid"], attempts.base.key, "twice in it")
        found[row["uid"]] = _outcome(row)
    for retry in attempts.retries:
        seen: set[str] = set()
        for row in _read(acquire_uri, retry.key):
            uid = row["uid"]
            if uid in seen or uid not in found or found[uid] not in _MAY_FOLLOW:
                was = "not" if uid not in found else f"as {found[uid] or 'success'}"
                raise _twice(uid, retry.key, f"and {was} before it")
            seen.add(uid)
            found[uid] = _outcome(row)
    return found


def attempts_ledger(acquire_uri: str, attempts: Attempts) -> Ledger:
    """Return the ledger of a partition and its retries: each row of the table once, with its final outcome."""
    if not attempts.retries:
        return attempts.base.ledger
    found = outcomes(acquire_uri, attempts)
    dropped = Counter(reason for reason in found.values() if reason is not None)
    repeats = {reason: attempts.base.ledger.dropped.get(reason, 0) for reason in REPEATS}
    out = sum(reason is None for reason in found.values())
    ledger = make_ledger(len(found) + sum(repeats.values()), out, {**dropped, **repeats})
    if ledger.entered != attempts.base.ledger.entered:
        raise IntegrityError(
            f"partition {attempts.base.key} has {attempts.base.ledger.entered} rows in its ledger and "
            f"{ledger.entered} in {ROWS}; it was changed after its commit: run `--only acquire --force`"
        )
    return ledger


def total_ledger(acquire_uri: str, all_attempts: Sequence[Attempts]) -> Ledger:
    """Return the ledger of a stage: each row of the table once."""
    return add_ledgers(attempts_ledger(acquire_uri, attempts) for attempts in all_attempts)


def _read(acquire_uri: str, part: str) -> list[Record]:
    path = committed_file(join(acquire_uri, PARTS, part), ROWS)
    return pq.read_table(path, columns=["uid", "status", "reason"]).to_pylist()


def _outcome(row: Record) -> str | None:
    return None if row["status"] == "success" else str(row["reason"])


def _twice(uid: str, part: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"uid {uid} stands in partition {part} {how}, expected one outcome that counts for every uid; "
        "the stage was not committed: run `--only acquire --force`"
    )
