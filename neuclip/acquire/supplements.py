"""Supplements: partitions that hold failed rows of another partition again, and the word that counts in the end."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquire.raw import ROWS
from neuclip.acquire.reasons import REPEATS
from neuclip.acquire.refusals import TAKEN_DOWN
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.errors import IntegrityError
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import Ledger, add_ledgers, make_ledger
from neuclip.stages.manifest import PARTS, Manifest, is_committed, read_manifest, verify_sizes
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join

REPAIRS = "repairs"
"""Input of a supplement's manifest: the key of the partition whose rows it holds again."""
ROUND = "round"
"""Input of a supplement's manifest: how often these rows have been fetched again, from 1 on."""

_MAY_FOLLOW = TRANSIENT_REASONS | {TAKEN_DOWN}

Record = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A committed partition and its supplements, first round first."""

    base: Manifest
    supplements: list[Manifest]

    @property
    def next_round(self) -> int:
        """The round that comes next."""
        return len(self.supplements) + 1

    def next_key(self) -> str:
        """Return the key of the next supplement.

        The moment of the base's commit is part of it: a base that was fetched again as a whole has no supplements.
        """
        return digest(
            {"repairs": self.base.key, "committed": self.base.started_at, "round": self.next_round}
        )


def find_families(acquire_uri: str, bases: Sequence[Manifest]) -> list[Family]:
    """Return each partition with the supplements that were committed at its root.

    Raises: IntegrityError: if a supplement has lost a file.
    """
    there = set(list_folders(join(acquire_uri, PARTS)))
    families: list[Family] = []
    for base in bases:
        family = Family(base, [])
        while (key := family.next_key()) in there:
            uri = join(acquire_uri, PARTS, key)
            if not is_committed(uri):
                break
            supplement = read_manifest(uri)
            verify_sizes(uri, supplement)
            family.supplements.append(supplement)
        families.append(family)
    return families


def in_rounds(families: Sequence[Family]) -> Iterator[tuple[int, Family, Manifest]]:
    """Yield round, family and supplement: all of the first round, then all of the second."""
    rounds = max((len(family.supplements) for family in families), default=0)
    for number in range(rounds):
        for family in families:
            if number < len(family.supplements):
                yield number + 1, family, family.supplements[number]


def outcomes(acquire_uri: str, family: Family) -> dict[str, str | None]:
    """Return the last word on every uid of a family, its repeats aside: the reason it failed for, None if it is there.

    Raises: IntegrityError: if a uid has more than one outcome that counts.
    """
    words: dict[str, str | None] = {}
    for row in _read(acquire_uri, family.base.key):
        if row["reason"] in REPEATS:
            continue
        if row["uid"] in words:
            raise _twice(row["uid"], family.base.key, "twice in it")
        words[row["uid"]] = _word(row)
    for supplement in family.supplements:
        seen: set[str] = set()
        for row in _read(acquire_uri, supplement.key):
            uid = row["uid"]
            if uid in seen or uid not in words or words[uid] not in _MAY_FOLLOW:
                was = "not" if uid not in words else f"as {words[uid] or 'success'}"
                raise _twice(uid, supplement.key, f"and {was} before it")
            seen.add(uid)
            words[uid] = _word(row)
    return words


def family_ledger(acquire_uri: str, family: Family) -> Ledger:
    """Return the ledger of a family: each row of the table once, with its last word."""
    if not family.supplements:
        return family.base.ledger
    words = outcomes(acquire_uri, family)
    dropped = Counter(reason for reason in words.values() if reason is not None)
    repeats = {reason: family.base.ledger.dropped.get(reason, 0) for reason in REPEATS}
    out = sum(reason is None for reason in words.values())
    ledger = make_ledger(len(words) + sum(repeats.values()), out, {**dropped, **repeats})
    if ledger.entered != family.base.ledger.entered:
        raise IntegrityError(
            f"partition {family.base.key} has {family.base.ledger.entered} rows in its ledger and {ledger.entered} in "
            f"{ROWS}; it was changed after its commit: run `--only acquire --force`"
        )
    return ledger


def total_ledger(acquire_uri: str, families: Sequence[Family]) -> Ledger:
    """Return the ledger of a stage: each row of the table once."""
    return add_ledgers(family_ledger(acquire_uri, family) for family in families)


def _read(acquire_uri: str, part: str) -> list[Record]:
    path = committed_file(join(acquire_uri, PARTS, part), ROWS)
    return pq.read_table(path, columns=["uid", "status", "reason"]).to_pylist()


def _word(row: Record) -> str | None:
    return None if row["status"] == "success" else str(row["reason"])


def _twice(uid: str, part: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"uid {uid} stands in partition {part} {how}, expected one outcome that counts for every uid; "
        "the stage was not committed: run `--only acquire --force`"
    )
