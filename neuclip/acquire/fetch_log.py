"""The fetch log: a record that the guard writes for each fetch, read while the log grows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class FetchRecord:
    """What came of asking for one row's picture."""

    reason: str | None
    """One of acquired.reasons.REASONS, None if the picture was handed on."""
    detail: str | None
    sha256: str | None
    """Of the bytes as they were received."""
    host: str
    """That answered last, after all redirects."""


class FetchLog:
    """Reads the guard's journal as it grows; whoever finishes a partition takes its rows' records."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._read_bytes = 0
        self._kept: dict[str, FetchRecord] = {}

    def read(self) -> int:
        """Take in what is new; return how many records have not been taken yet."""
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
            self._read_bytes += len(whole)
            for line in whole.splitlines():
                record = orjson.loads(line)
                self._kept[record["uid"]] = FetchRecord(
                    record["reason"], record["detail"], record["sha256"], record["host"]
                )
        return len(self._kept)

    def reasons(self) -> Counter[str | None]:
        """Return how many of those not taken yet have each reason."""
        return Counter(record.reason for record in self._kept.values())

    def take(self, uids: Iterable[str]) -> dict[str, FetchRecord]:
        """Return the records of rows and forget them."""
        return {uid: record for uid in uids if (record := self._kept.pop(uid, None)) is not None}
